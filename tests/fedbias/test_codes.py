"""Each compressor by itself: values computed by hand, and what randomness does on average."""

import math

import numpy as np
import pytest

import fedbias as fb


def decoded(compressor, vector, radius=None, dtype=np.float64, seed=0):
    vector = np.array(vector, dtype)
    return fb.decode(compressor.encode(vector, np.random.default_rng(seed), radius), radius)


def test_identity_keeps_every_bit():
    vector = np.array([0.1, -0.0, 5e-324, -1.7976931348623157e308])
    assert decoded(fb.identity(), vector).tobytes() == vector.tobytes()


def test_sign_has_the_mean_magnitude():
    """Kills: the largest magnitude as scale, sign(0) = 0 or −1."""
    np.testing.assert_array_equal(decoded(fb.sign(), [1, -3, 0, 2]), [1.5, -1.5, 1.5, 1.5])


def test_uniform_knows_the_midpoints_of_its_cells():
    """b = 2 on [−4, 4]: −3, −1, 1, 3. Kills: a midtread grid, rounding instead of flooring."""
    vector = [4, -4, 0.5, -0.5, 0, -2.1, 2, 1.99, -1e-9]
    expected = [3, -3, 1, -1, 1, -3, 3, 1, -1]
    np.testing.assert_array_equal(decoded(fb.uniform(2), vector), expected)
    np.testing.assert_array_equal(decoded(fb.uniform(1), [4, -4, 1, -1]), [2, -2, 2, -2])


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_code_of_every_width(bits, dtype):
    """Midpoints code themselves: all 2^b codes, really packed. Kills: a mis-packed or lost bit."""
    midpoints = (2 * np.arange(2**bits) + 1) / 2**bits - 1
    vector = np.random.default_rng(0).permutation(midpoints).astype(dtype)
    packet = fb.uniform(bits).encode(vector, radius=1.0)
    assert len(packet.payload) == math.ceil(bits * 2**bits / 8)
    np.testing.assert_array_equal(fb.decode(fb.Packet.from_bytes(bytes(packet)), 1.0), vector)


@pytest.mark.parametrize("bits", range(1, 17))
def test_levels_of_dithering(bits):
    """From −s to s in 2^b levels, ±s themselves among them. Kills: 2^b steps for 2^b − 1."""
    assert decoded(fb.dithered(bits), [3, -3, 1]).tolist()[:2] == [3, -3]
    steps = 2**bits - 1
    vector = np.random.default_rng(bits).uniform(-1, 1, 500)
    place = (decoded(fb.dithered(bits), vector, radius=1.0) + 1) * steps / 2
    np.testing.assert_allclose(place, np.round(place), atol=1e-9)
    assert np.abs(place - (vector + 1) * steps / 2).max() <= 1 + 1e-9  # only to its neighbours
    assert place.min() >= -1e-9 and place.max() <= steps + 1e-9


def test_saturation_beyond_a_radius():
    """Entries outside the cube go to its last code. Kills: codes that wrap around."""
    vector = [10, -10, 0.9, 1e300, -1e300]
    np.testing.assert_array_equal(
        decoded(fb.uniform(2), vector, 1.0), [0.75, -0.75, 0.75, 0.75, -0.75]
    )
    ends = decoded(fb.dithered(2), vector, 1.0)
    np.testing.assert_array_equal(ends[[0, 1, 3, 4]], [1, -1, 1, -1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1.0, 7e4, 1e-8, 1e-30, 1e30])
def test_half_neither_overflows_nor_vanishes(dtype, size):
    """Beyond 65504 and below 6e−8. Kills: a plain cast to float16."""
    vector = size * np.random.default_rng(0).uniform(0.01, 1, 100).astype(dtype)
    back = decoded(fb.half(), vector, dtype=dtype)
    assert back.dtype == dtype
    relative = np.abs(back.astype(float) / vector - 1)
    assert 2.0**-13 < relative.max() <= 2.0**-11


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("power", [0, 80, -80])
def test_half_keeps_eleven_bits_and_thirty_eight_powers_of_two(dtype, power):
    """The shift rounds nothing. Kills: a shift that wastes range, a scale that is no power of 2."""
    kept = np.ldexp([1, -0.5, 1 + 2.0**-10, 2.0**-20, 2.0**-38, 0], power)
    np.testing.assert_array_equal(decoded(fb.half(), kept, dtype=dtype), kept)
    lost = np.ldexp([1, 1 + 2.0**-11, 2.0**-39], power)  # ties to even
    np.testing.assert_array_equal(decoded(fb.half(), lost, dtype=dtype), [lost[0], lost[0], 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_half_of_the_extreme_numbers(dtype):
    """What was encoded can be decoded, up to the ends of the dtype."""
    info = np.finfo(dtype)
    for extreme in (info.max, -info.max, info.tiny, info.smallest_subnormal):
        back = decoded(fb.half(), [extreme, 0], dtype=dtype)
        assert abs(float(back[0]) / float(extreme) - 1) <= 2.0**-11 and back[1] == 0


def test_top_k_keeps_the_largest_and_the_lower_index():
    """Kills: the smallest kept, signed instead of absolute values, ties to the higher index."""
    np.testing.assert_array_equal(decoded(fb.top_k(0.5), [1, -3, 2, -0.5]), [0, -3, 2, 0])
    np.testing.assert_array_equal(decoded(fb.top_k(0.5), [1, -1, 1, -1]), [1, -1, 0, 0])
    np.testing.assert_array_equal(decoded(fb.top_k(0.5), [1, 2, -1, 1]), [1, 2, 0, 0])
    np.testing.assert_array_equal(decoded(fb.top_k(0.4), [0, 0, 0, 0, 0]), np.zeros(5))
    np.testing.assert_array_equal(decoded(fb.top_k(1), [3, 0, -1]), [3, 0, -1])


@pytest.mark.parametrize("name", ["top_k", "random_k"])
@pytest.mark.parametrize(
    ("fraction", "dim", "count"),
    [(0.02, 10, 1), (1e-9, 3, 1), (0.5, 3, 2), (0.5, 5, 2), (0.3, 10, 3), (0.26, 10, 3), (1, 7, 7)],
)
def test_how_many_are_kept(name, fraction, dim, count):
    """k = max(1, round(p·d)), halves to even. Kills: floor or ceil for round, k = 0."""
    vector = np.arange(1.0, dim + 1)
    assert np.count_nonzero(decoded(getattr(fb, name)(fraction), vector)) == count


@pytest.mark.parametrize(
    ("dim", "count", "bits"),
    [
        (1, 1, 0),  # the only place there is
        (2, 1, 1),
        (8, 2, 6),  # 3 bits each
        (8, 3, 8),  # 9 bits: the bitmap is smaller
        (9, 2, 8),  # 4 bits each
        (1000, 100, 1000),  # both the same
        (1000, 99, 990),
        (1000, 500, 1000),
        (65536, 655, 655 * 16),
        (65537, 655, 655 * 17),
    ],
)
def test_places_are_packed(dim, count, bits):
    """min(bitmap, ⌈log₂ d⌉ each). Kills: 32-bit indices, a width one bit too large."""
    vector = np.random.default_rng(dim).standard_normal(dim).astype(np.float32)
    packet = fb.top_k(count / dim).encode(vector)
    assert packet.payload_bits - 32 * count == bits
    back = fb.decode(fb.Packet.from_bytes(bytes(packet)))
    kept = np.flatnonzero(back)
    assert kept.size == count and np.array_equal(back[kept], vector[kept])
    assert np.abs(np.delete(vector, kept)).max(initial=0) <= np.abs(back[kept]).min()


def test_random_k_costs_a_seed_and_scales_by_d_over_k():
    """Kills: indices on the wire, a missing or inverted factor."""
    vector = np.arange(1.0, 1001)
    packet = fb.random_k(0.25).encode(vector, np.random.default_rng(0))
    assert packet.payload_bits == 64 * 250 and packet.wire_bits == 8 * (10 + 12 + 8 * 250 + 4)
    back = fb.decode(packet)
    assert set(back / vector) == {0.0, 4.0}
    seed = packet.fields[1]  # the places: where that seed draws the 250 smallest numbers
    drawn = np.argsort(np.random.default_rng(seed).random(1000))[:250]
    assert set(np.flatnonzero(back)) == set(drawn)
    other = fb.decode(fb.random_k(0.25).encode(vector, np.random.default_rng(1)))
    assert not np.array_equal(back, other)


V = np.array([0.9, -1.0, 0.5, 0.31, -0.02, 0.0, 1e-3, -0.77])


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_dithering_is_unbiased_with_the_expected_variance(bits):
    """Mean and variance of 20000 draws an entry within 5 sigma: 64 checks, false alarm < 10^−4.

    Kills: rounding to nearest, noise with the wrong range.
    """
    draws, step = 20_000, 2 / (2**bits - 1)
    off = decoded(fb.dithered(bits), np.tile(V, draws)).reshape(draws, -1) - V
    share = np.mod((V + 1) / step, 1)
    variance = share * (1 - share) * step**2
    spread = np.sqrt(variance / draws)
    assert (np.abs(off.mean(axis=0)) <= 5 * spread + 1e-12).all()
    fourth = share * (1 - share) * (1 - 3 * share * (1 - share)) * step**4  # central moment
    noise = np.sqrt(np.maximum(fourth - variance**2, 0) / draws)
    assert (np.abs((off**2).mean(axis=0) - variance) <= 5 * noise + 1e-12).all()
    assert variance.sum() <= fb.dithered(bits).guarantee(V.size).variance * (V @ V)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_random_k_is_unbiased_with_exactly_its_variance(count):
    """4000 draws; 8 means and one variance within 5 sigma: false alarm < 10^−4 over all cases.

    Kills: factor 1, places that favour the front, a variance off by one.
    """
    rng, compressor, draws = np.random.default_rng(0), fb.random_k(count / V.size), 4000
    off = np.stack([fb.decode(compressor.encode(V, rng)) - V for _ in range(draws)])
    omega = V.size / count - 1
    assert compressor.guarantee(V.size).variance == omega
    assert (np.abs(off.mean(axis=0)) <= 5 * np.abs(V) * math.sqrt(omega / draws) + 1e-12).all()
    squares = np.sum(off**2, axis=1)
    allowed = 5 * squares.std() / math.sqrt(draws) + 1e-12
    assert abs(squares.mean() - omega * (V @ V)) <= allowed
    assert allowed < 0.1 * omega * (V @ V)  # the check can see an error of ten percent
