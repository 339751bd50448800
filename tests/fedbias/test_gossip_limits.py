"""Where decentralized runs become something known, and where they end."""

import numpy as np
import pytest

import fedbias as fb
from tests.tools.gossip_clients import at, centred

EXACT = {"estimator": fb.exact(), "matching": fb.random_matching()}
PROBLEM = fb.LeastSquares.random(10, 10, 0, clients=6)
APART = list(np.random.default_rng(0).standard_normal((6, 10)))


def single(dtype):
    objective = fb.LeastSquares.random(6, 10, 0).objectives[0]
    features, targets = objective.features.astype(dtype), objective.targets.astype(dtype)
    return type(objective)(features, targets)


@pytest.mark.parametrize("matching", [fb.random_matching(), fb.along("ring"), fb.along("complete")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_client_is_gradient_descent(dtype, matching):
    """Bit for bit, in its own dtype. Kills: a step size in another precision, a meeting with
    itself, a model that comes back as float64."""
    start = np.linspace(-1, 1, 6, dtype=dtype)
    plain = fb.run([single(dtype)], fb.gradient_descent(0.3), start, 20)
    alone = fb.run_gossip(
        [single(dtype)], [start], 20, estimator=fb.exact(), matching=matching, step_size=0.3
    )
    assert alone.points.dtype == dtype and alone.points.tobytes() == plain.points.tobytes()
    np.testing.assert_array_equal(alone.losses, plain.losses)
    assert alone.memories[0]["gossip.model"].dtype == dtype
    assert (alone.spreads == 0).all() and not any(outcome.pairs for outcome in alone.outcomes)


@pytest.mark.parametrize("matching", [fb.random_matching(), fb.along("torus")])
def test_clients_that_are_alike_stay_together(matching):
    """Four copies from one start are gradient descent, bit for bit, with a spread of 0.

    Kills: an average whose parts are weighed differently.
    """
    start = np.linspace(-1, 1, 6)
    plain = fb.run([single(float)], fb.gradient_descent(0.3), start, 20)
    four = fb.run_gossip(
        [single(float)] * 4, [start] * 4, 20, estimator=fb.exact(), matching=matching, step_size=0.3
    )
    assert four.points.tobytes() == plain.points.tobytes() and (four.spreads == 0).all()


def test_two_that_are_alike_agree_at_once():
    """Once they met they are one: gradient descent from the mean of their first steps.

    Kills: a meeting that comes a round late.
    """
    pair = fb.run_gossip([single(float)] * 2, [np.ones(6), -np.ones(6)], 20, **EXACT, step_size=0.3)
    assert pair.spreads[0] == pytest.approx(6, rel=1e-15) and (pair.spreads[1:] == 0).all()
    np.testing.assert_allclose(
        pair.points[1], -0.3 * single(float).gradient(np.zeros(6)), rtol=0, atol=1e-15
    )
    after = fb.run([single(float)], fb.gradient_descent(0.3), pair.points[1], 19)
    assert pair.points[1:].tobytes() == after.points.tobytes()


@pytest.mark.parametrize("mixing", [1.0, 0.5, 0.25])
def test_part_of_the_way(mixing):
    """Two clients at 0 and 8: Γ' = (1 − γ)²Γ in every round, and the mean stays."""
    pair = fb.run_gossip(centred(0, 8), at(0, 8), 4, **EXACT, step_size=0.0, mixing=mixing)
    assert pair.spreads.tolist() == [16 * (1 - mixing) ** (2 * k) for k in range(5)]
    assert (pair.points == 4).all()


@pytest.mark.parametrize("compressor", [fb.identity(), fb.top_k(0.2)])
def test_nothing_moves_without_a_step_from_a_common_start(compressor):
    """Different clients, bit for bit where they were."""
    still = fb.run_gossip(
        PROBLEM.objectives, [np.ones(10)] * 6, 5, **EXACT, step_size=0.0, compressor=compressor
    )
    assert (still.points == 1).all() and (still.spreads == 0).all()


def test_who_has_no_partner_under_random_pair_stays():
    """One pair alone steps, and pays. Kills: everybody's step in a round of one pair."""
    history = fb.run_gossip(
        *(centred(0, 6, 12, 18, 24), at(1, 2, 3, 4, 5), 1),
        estimator=fb.exact(),
        matching=fb.random_pair(),
        step_size=0.5,
    )
    ((i, j),) = history.outcomes[0].pairs
    models = [memory["gossip.model"].item() for memory in history.memories]
    assert models[i] == models[j] != (i + j + 2) / 2
    assert all(models[c] == c + 1 for c in range(5) if c not in (i, j))
    assert history.outcomes[0].applied == (i, j) and history.outcomes[0].samples == 2
    assert history.payload_bits.tolist() == [2 * 64]


def test_what_a_history_holds():
    """Kills: losses that are looked at in every round, bits of half the clients, a mean model that
    is the first client's."""
    seen = []
    history = fb.run_gossip(
        *(PROBLEM.objectives, APART, 5),
        **(EXACT | {"estimator": fb.minibatch()}),
        batch_size=4,
        step_size=0.1,
        lost=lambda k: [2] if k == 1 else [],
        evaluate_every=2,
        on_round=lambda *round: seen.append(round),
    )
    assert history.points.shape == (6, 10) and history.stopped is None
    np.testing.assert_array_equal(history.points[0], np.mean(APART, axis=0))
    assert np.isnan(history.losses).tolist() == [False, True, False, True, False, False]
    assert history.losses[4] == pytest.approx(PROBLEM.loss(history.points[4]), rel=1e-14)
    assert history.payload_bits.tolist() == [640 * n for n in (6, 5, 6, 6, 6)]
    packet = 8 * len(bytes(fb.identity().encode(np.ones(10))))
    assert history.wire_bits.tolist() == [packet * n for n in (6, 5, 6, 6, 6)]
    assert history.batch_sizes == [4] * 5
    assert [outcome.samples for outcome in history.outcomes] == [24, 20, 24, 24, 24]
    assert [outcome.batch_size for outcome in history.outcomes] == [4] * 5
    for k, (round, mean, spread, outcome) in enumerate(seen):
        assert round == k and outcome is history.outcomes[k] and spread == history.spreads[k + 1]
        np.testing.assert_array_equal(mean, history.points[k + 1])
    assert len(seen) == 5
    nothing = fb.run_gossip(PROBLEM.objectives, APART, 0, **EXACT)
    assert nothing.points.shape == (1, 10) and nothing.spreads.shape == (1,)


def test_the_step_falls_with_everybodys_samples():
    """Two clients of one example: η = 1/2, then (after 2 of 4 samples) 3/8, then 1/4.

    f = x²/2 and both at 8: 8·½ = 4, 4·⅝ = 2.5, 2.5·¾. Kills: a decay that is left out, or counts
    one client.
    """
    history = fb.run_gossip(
        *(centred(0, 0), at(8, 8), 3),
        **EXACT,
        step_size=0.5,
        decay=fb.cosine_decay(samples=4, final=0.5),
    )
    np.testing.assert_allclose(history.points.ravel(), [8, 4, 2.5, 1.875], rtol=1e-15)


HYBRID = {"gradient": fb.exact(), "loss": fb.two_point(4, 1e-4, central=True)}


@pytest.mark.parametrize("decays", [False, True])
def test_gradients_and_forward_passes_agree_in_the_end(decays):
    """Two clients with gradients, four without, all with different data, from one start.

    Γ is .012 after the first round; a constant step of .1 leaves 1e-4 of it, one that falls to a
    thousandth 6e-9, and the mean model's loss comes from .70 to .009 and .031 above the least.
    Kills: a client that nobody meets, a forward-only client that does not step.
    """
    clients = [f if i < 2 else fb.ForwardOnly(f) for i, f in enumerate(PROBLEM.objectives)]
    decay = fb.cosine_decay(samples=100 * 6 * 20, final=1e-3) if decays else fb.no_decay()
    history = fb.run_gossip(
        *(clients, [np.zeros(10)] * 6, 100),
        estimator=HYBRID,
        matching=fb.random_matching(),
        step_size=0.1,
        decay=decay,
    )
    above = history.losses - PROBLEM.minimum
    assert above[0] > 0.5 and 0 < above[-1] < 0.05
    assert history.spreads[1] > 1e-3
    late = history.spreads[-10:]
    assert late[-1] < 1e-7 if decays else (late > 1e-5).all()


TENTH = {"compressor": fb.top_k(0.1), "estimator": fb.exact(), "step_size": 0.0}


@pytest.mark.parametrize("matching", [fb.random_matching(), fb.along("ring")])
def test_changes_of_a_tenth_reach_consensus_at_mixing_03(matching):
    """One entry of ten travels. As its change: Γ falls to 1e-9 … 1e-6 of what it was. As it is: a
    floor stays (.05 … .3). As its change and all the way: Γ grows, 57- to 52000-fold.

    The ranges are those of eight seeds and both matchings. Kills: changes that are sent as models,
    a memory that the partner does not have.
    """
    run = PROBLEM.objectives, APART, 100
    changes = fb.run_gossip(*run, **TENTH, matching=matching, feedback=fb.ef21(), mixing=0.3)
    assert changes.spreads[-1] < 1e-5 * changes.spreads[0]
    plain = fb.run_gossip(*run, **TENTH, matching=matching, mixing=0.3)
    assert 0.01 * plain.spreads[0] < plain.spreads[-1] < 0.5 * plain.spreads[0]
    whole = fb.run_gossip(*run, **TENTH, matching=matching, feedback=fb.ef21())
    assert whole.spreads[-1] > 20 * whole.spreads[0]
    for history in (changes, plain):
        np.testing.assert_allclose(history.points - history.points[0], 0, rtol=0, atol=1e-13)
