"""Every draw follows from [seed, round, client, purpose] alone, on every machine."""

import numpy as np
import pytest

import fedbias as fb
from fedbias.randomness import SERVER, Purpose, fingerprint, generator


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [1, 7, 256, 1000])
def test_a_direction_in_blocks_is_the_whole(dtype, block):
    """A device may make u block by block. Kills: a direction that depends on its length."""
    whole = fb.direction(5, 1000, dtype)
    assert whole.dtype == dtype and whole.shape == (1000,)
    np.testing.assert_array_equal(fb.direction(5, block, dtype), whole[:block])
    rng = np.random.default_rng(5)
    sizes = [block] * (1000 // block) + [1000 % block]
    parts = [rng.standard_normal(size, dtype) for size in sizes]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_directions_are_standard_normal_and_differ_by_seed():
    """Mean 0, variance 1, fourth moment 3, no correlation: each within 5 sigma of 10^5 draws.

    Together the false alarm rate is below 10^-5. Kills: uniform draws, an unused seed.
    """
    count = 100_000
    u, other = fb.direction(1, count), fb.direction(2, count)
    moments = {1: (0, 1), 2: (1, 2), 4: (3, 96)}  # power → expectation, variance of one
    for power, (mean, variance) in moments.items():
        assert abs(np.mean(u**power) - mean) < 5 * np.sqrt(variance / count)
    assert abs(np.mean(u * other)) < 5 / np.sqrt(count)
    single = fb.direction(1, count, np.float32)
    assert abs(np.mean(single.astype(float) ** 2) - 1) < 5 * np.sqrt(2 / count)


def test_the_fingerprint_is_what_it_was():
    """numpy promises this stream; a version that breaks it must be noticed.

    Kills: another length or seed, or one dtype alone, behind what clients are compared by.
    """
    assert fingerprint() == "a43eb152142cc03b"
    np.testing.assert_allclose(fb.direction(0, 3), [0.12573022, -0.13210486, 0.64042265], 1e-7)
    assert fb.sample_clients(0, 0, range(10), 3) == [0, 7, 9]
    assert fb.lost(0, 0, range(20), 0.3) == [1, 4, 9, 13, 15, 16]


def test_streams_differ_in_every_coordinate():
    """Kills: a coordinate left out of the seed."""
    base = {"seed": 1, "round": 2, "client": 3, "purpose": Purpose.BATCH}
    draws = [generator(**base).integers(2**63)]
    for change in ({"seed": 2}, {"round": 3}, {"client": 4}, {"purpose": Purpose.COMPRESS}):
        draws.append(generator(**(base | change)).integers(2**63))
    draws += [generator(3, 2, 1, Purpose.BATCH).integers(2**63)]  # no symmetric mixing
    assert len(set(draws)) == len(draws)
    assert generator(**base).integers(2**63) == draws[0]


def test_purposes_never_change():
    """They are part of every seed: a renumbered purpose changes every published run."""
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "SAMPLE": 1,
        "BATCH": 2,
        "SHUFFLE": 3,
        "COMPRESS": 4,
        "DATA": 5,
        "MODEL": 6,
        "LOSS": 7,
        "ROLLOUT": 8,
        "DIRECTION": 9,
        "MATCHING": 10,
        "LANCZOS": 11,
        "MEASURED": 12,
    }
    assert SERVER == 2**32 - 1


def test_sampling_does_not_depend_on_the_order_of_arrival():
    """Kills: choosing positions instead of the clients' own numbers."""
    clients = [40, 7, 19, 3, 28, 11, 5]
    expected = fb.sample_clients(1, 2, clients, 4)
    assert len(set(expected)) == 4 and set(expected) <= set(clients)
    assert expected == sorted(expected) and all(type(client) is int for client in expected)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert fb.sample_clients(1, 2, rng.permutation(clients), 4) == expected
    assert fb.sample_clients(1, 2, iter(clients), 7) == sorted(clients)
    assert fb.sample_clients(1, 2, clients, 0) == []


def test_sampling_is_uniform():
    """4 of 10 in 4000 rounds: each client within 5 sigma of 1600 (false alarm below 10^-5)."""
    counts = np.zeros(10)
    for round in range(4000):
        counts[fb.sample_clients(3, round, range(10), 4)] += 1
    assert (np.abs(counts - 1600) < 5 * np.sqrt(4000 * 0.4 * 0.6)).all()


def test_too_many_clients_are_refused():
    with pytest.raises(ValueError):
        fb.sample_clients(0, 0, [1, 2], 3)


def test_losses_are_each_client_s_own():
    """Kills: one stream for all, in which client 3's fate depends on who else was asked."""
    everyone = set(fb.lost(0, 1, range(50), 0.3))
    assert everyone & set(range(3, 9)) == set(fb.lost(0, 1, range(3, 9), 0.3))
    assert fb.lost(0, 1, range(50), 0.0) == [] and len(fb.lost(0, 1, range(50), 1.0)) == 50
    assert everyone <= set(fb.lost(0, 1, range(50), 0.6))  # one uniform number each
    total = sum(len(fb.lost(0, round, range(10), 0.2)) for round in range(500))
    assert abs(total - 1000) < 5 * np.sqrt(5000 * 0.2 * 0.8)  # 5 sigma
