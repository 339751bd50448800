"""What a decentralized run refuses, on each side, and what it takes in its stride."""

from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias.directions import combination
from fedbias.gossip import GossipAlgorithm, GossipState, apply, plan_for
from fedbias.gossip import respond as answer
from fedbias.gossip.client import MODEL
from fedbias.ledger import Ledger
from tests.tools.gossip_clients import at, centred

BEST = fb.preset_radius(lipschitz=1.0, strong_convexity=0.1, distance=2.0)
PROBLEM = fb.LeastSquares.random(3, 10, 0, clients=3)
RUN = {"estimator": fb.exact(), "matching": fb.random_matching()}
ONES = [np.ones(3)] * 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"feedback": fb.error_feedback()}, r"error_feedback\(\) does not know them: use no_feedb"),
        ({"feedback": fb.differential()}, r"differential\(\) does not know them"),
        ({"feedback": fb.no_feedback(BEST)}, "clients send models, not gradients"),
        ({"feedback": fb.ef21(BEST)}, "clients send models, not gradients"),
        ({"batch_size": 8}, r"gossip: batch_size has no meaning for exact\(\)"),
        ({"estimator": fb.minibatch(), "batch_size": 0}, "gossip: batch_size must be a whole numb"),
        ({"step_size": -0.1}, "gossip: step_size must be a number >= 0, not -0.1"),
        ({"step_size": float("nan")}, "gossip: step_size must be"),
        ({"step_size": float("inf")}, "gossip: step_size must be"),
        ({"mixing": 0.0}, "gossip: mixing must be a number > 0 and <= 1, not 0.0"),
        ({"mixing": 1.5}, "gossip: mixing must be"),
        ({"seed": -1}, "gossip: seed must be a whole number >= 0, not -1"),
        ({"seed": 2**63}, "gossip: seed must be"),
        ({"estimator": fb.sign()}, r"estimator must be like exact\(\), not sign\(\)"),
        ({"estimator": {"hvp": fb.exact()}}, "there is no capability 'hvp'"),
        ({"matching": "ring"}, r"matching must be like random_matching\(\)"),
        ({"compressor": fb.exact()}, r"gossip: compressor must be like identity\(\)"),
        ({"feedback": None}, r"gossip: feedback must be like no_feedback\(\)"),
        ({"decay": 0.5}, "gossip: decay must be like cosine_decay"),
        ({"participation": lambda k: [0, 3]}, "there are clients 0 … 2, not all of"),
        ({"evaluate_every": 0}, "run_gossip: evaluate_every must be a whole number >= 1"),
        ({"matching": lambda k: [(0, 3)]}, "different clients that are there"),
    ],
)
def test_settings_that_do_not_fit(change, sentence):
    """Kills: a setting that is not looked at."""
    with pytest.raises(ValueError, match=sentence):
        fb.run_gossip(PROBLEM.objectives, ONES, 1, **(RUN | change))


@pytest.mark.parametrize(
    ("objectives", "starts", "rounds", "sentence"),
    [
        ([], [], 1, "0 objectives and 0 starts: one for each"),
        (PROBLEM.objectives, ONES[:2], 1, "3 objectives and 2 starts: one for each"),
        (PROBLEM.objectives[:1], ONES, 1, "1 objectives and 3 starts"),
        (PROBLEM.objectives, [*ONES[:2], np.ones(4)], 1, "client 2 starts with 4 entries of float"),
        (PROBLEM.objectives, [*ONES[:2], np.ones(3, np.float32)], 1, "not 3 of float64"),
        (PROBLEM.objectives, [*ONES[:2], np.array([1, np.nan, 1])], 1, "1 of 3 entries are NaN"),
        (PROBLEM.objectives, [np.ones(3, int)] * 3, 1, "float32 or float64, not int64"),
        (PROBLEM.objectives, [np.ones((3, 1))] * 3, 1, "a vector has one axis"),
        ([fb.problems.Squares(np.ones((0, 3)), np.ones(0))], ONES[:1], 1, "client 0 has no data"),
        (PROBLEM.objectives, ONES, -1, "run_gossip: rounds must be a whole number >= 0"),
    ],
)
def test_clients_that_do_not_fit(objectives, starts, rounds, sentence):
    """Kills: a start that numpy would stretch, a dtype that one client has for itself."""
    with pytest.raises(ValueError, match=sentence):
        fb.run_gossip(objectives, starts, rounds, **RUN)


class Normed(fb.problems.Squares):
    """A model with statistics of its batches."""

    buffers = np.zeros(2)


def asked(client=0, **changes):
    state = GossipState(np.ones(3), enrolled=dict.fromkeys(range(3), 6), acknowledged={0: -1})
    return replace(plan_for(GossipAlgorithm(), state, client, begun=True), **changes)


HAS = Ledger(memory={MODEL: np.ones(3)})


@pytest.mark.parametrize(
    ("objective", "change", "sentence"),
    [
        (fb.ForwardOnly(PROBLEM.objectives[0]), {}, r"exact\(\) needs gradient, which ForwardOnly"),
        (
            fb.ForwardOnly(PROBLEM.objectives[0]),
            {"estimator": fb.by_capability(gradient=fb.exact())},
            "offers its loss alone, and the server asks for gradient",
        ),
        (Normed(np.eye(3), np.ones(3)), {}, r"buffers \(BatchNorm\) .* use GroupNorm"),
        (PROBLEM.objectives[0], {"model": np.ones(4)}, "point has dim 4, not 3"),
        (PROBLEM.objectives[0], {"model": np.full(3, 1e200), "step_size": 1e200}, "or infinite"),
        (PROBLEM.objectives[0], {"model": np.array([1, np.inf, 1])}, "entries are NaN or infinite"),
        (fb.problems.Squares(np.ones((0, 3)), np.ones(0)), {}, "the client has no data"),
    ],
)
def test_plans_that_a_client_refuses(objective, change, sentence):
    """With a sentence. Kills: an estimator of somebody else's, means
    that leave out what buffers hold, a model that is not finite and travels."""
    with pytest.raises(ValueError, match=sentence):
        answer(objective, asked(**change), HAS)


MET = Ledger(memory={MODEL: np.zeros(3)}, pending_round=4, pending={MODEL: np.ones(3)})


@pytest.mark.parametrize(
    ("partner", "sentence"),
    [
        (fb.identity().encode(np.ones(4)), "expected a vector of dim 3, the packet has 4"),
        (fb.identity().encode(np.ones(3, np.float32)), "dtype float32, not float64"),
        (replace(fb.identity().encode(np.ones(3)), payload=b"\xff" * 24), "entries are NaN"),
    ],
)
def test_a_partner_that_cannot_be_met(partner, sentence):
    """Kills: a partner's dtype for one's own, a NaN that is averaged."""
    with pytest.raises(fb.PacketError, match=sentence):
        answer(PROBLEM.objectives[0], asked(round=5, acknowledged=4, partner=partner), MET)
    report, ledger = answer(PROBLEM.objectives[0], asked(round=5, acknowledged=4), MET)
    assert ledger.memory[MODEL].tolist() == [1, 1, 1]


@pytest.mark.parametrize("known", [Ledger(), Ledger(applied=4), Ledger(applied=4, memory={})])
def test_a_partner_without_a_model(known):
    """A meeting of which one knows nothing is no meeting: the model is asked for."""
    partner = fb.identity().encode(np.ones(3))
    for acknowledged in (-1, 4):
        plan = asked(round=5, acknowledged=acknowledged, partner=partner)
        with pytest.raises(ValueError, match="this client has no model"):
            answer(PROBLEM.objectives[0], plan, known)


ALGORITHM = GossipAlgorithm(fb.by_capability(gradient=fb.exact()), step_size=0.5)


def reported(client, **changes):
    """A report on (x − 8·client)²/2 from 0, and the round it belongs to."""
    state = GossipState(np.zeros(1), enrolled={0: 1, 1: 1})
    (objective,) = centred(8.0 * client)
    report, _ = answer(objective, plan_for(ALGORITHM, state, client), Ledger())
    return state, replace(report, **changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"round": 1}, "the report is of round 1, not 0"),
        ({"examples": 0}, "0 examples with a loss of"),
        ({"loss": float("nan")}, "1 examples with a loss of nan"),
        ({"kind": "loss"}, "nobody was asked for an estimate of the kind 'loss'"),
        ({"kind": ""}, "nobody was asked for an estimate of the kind ''"),
        ({"kind": "x" * 99}, f"an estimate of the kind '{'x' * 60}'"),
        ({"packet": fb.identity().encode(np.ones(2))}, "expected a vector of dim 1"),
        ({"packet": fb.identity().encode(np.ones(1, np.float32))}, "dtype float32, not float64"),
        (
            {"packet": replace(fb.identity().encode(np.ones(1)), payload=b"\xff" * 8)},
            "1 entries are NaN or infinite",
        ),
        (
            {"packet": combination(0, np.ones(2, np.float32), 1, float)},
            "names 2 directions, not at most 0",
        ),
    ],
)
@pytest.mark.parametrize("feedback", [fb.no_feedback(), fb.ef21()])
def test_reports_that_the_server_refuses(change, sentence, feedback):
    """It says why, and the partner keeps its own model. Kills: a report that is taken unchecked,
    an h that moves with a refused report, a seed that makes the server draw."""
    state, good = reported(0)
    _, bad = reported(1, **change)
    after, outcome = apply(replace(ALGORITHM, feedback=feedback), state, [bad, good])
    assert list(outcome.refused) == [1] and sentence in outcome.refused[1]
    assert outcome.applied == (0,) and outcome.pairs == () and not after.relays
    assert after.acknowledged == {0: 0} and set(after.memories) <= {0}
    assert after.samples == outcome.samples == outcome.received == 1


def test_a_second_report_is_refused():
    """Kills: a model that replaces the one that its partner was told of."""
    state, good = reported(0)
    _, other = reported(1)
    twice = replace(good, packet=fb.identity().encode(np.full(1, 9.0)))
    after, outcome = apply(ALGORITHM, state, [good, other, twice])
    assert outcome.refused == {0: "client 0 reported twice in round 0"}
    assert outcome.applied == (0, 1) and outcome.pairs == ((0, 1),)
    assert fb.decode(after.relays[1]).tolist() == [0.0]
    assert fb.decode(after.relays[0]).tolist() == [4.0]


def test_an_odd_number_and_an_absent_partner():
    """One of three stays alone, and whose partner is away too. Kills: a run that waits."""
    history = fb.run_gossip(
        *(centred(0, 0, 0), at(4, 8, 16), 2),
        **RUN,
        step_size=0.0,
        participation=lambda k: [] if k else [0, 1, 2],
    )
    assert len(history.outcomes[0].pairs) == 1 and history.outcomes[1].pairs == ()
    assert history.spreads[2] == history.spreads[1] < history.spreads[0]
    assert history.outcomes[1].applied == () and np.isnan(history.outcomes[1].loss)
    (pair,) = history.outcomes[0].pairs
    away = fb.run_gossip(
        *(centred(0, 0, 0), at(4, 8, 16), 1),
        **RUN,
        step_size=0.0,
        participation=lambda k: {0, 1, 2} - {pair[0]},
    )
    assert away.outcomes[0].pairs == () and away.spreads[1] == away.spreads[0]


def test_a_loss_that_is_not_finite_along_some_directions():
    """They are left out and counted, and the client steps along the others. Kills: a count that
    gets lost on its way, a client that is refused for one direction."""

    class Walled(fb.problems.Squares):
        def loss(self, point, batch=None):
            return super().loss(point, batch) if point[0] <= 1 else float("nan")

    walled = [fb.ForwardOnly(Walled(np.eye(2), np.zeros(2))) for _ in range(2)]
    history = fb.run_gossip(
        *(walled, [np.ones(2)] * 2, 1),
        estimator=fb.two_point(16, 0.1),
        matching=fb.random_matching(),
        step_size=0.1,
    )
    (outcome,) = history.outcomes
    assert outcome.applied == (0, 1) and 8 <= outcome.dropped <= 24  # 16 ± 2.8, 32 draws of 1/2
    assert outcome.computed == 2 * 17 * 2 and np.isfinite(history.points).all()


def test_numpys_numbers_are_pythons():
    """The same bits and the same plans, also for float32 models. Kills: a mixing that makes float64
    of them, a plan without a JSON.
    """
    objectives = fb.LeastSquares.random(5, 10, 0, clients=4).objectives
    starts = [np.linspace(-1, k, 5, dtype=np.float32) for k in range(4)]
    numpys = {
        "step_size": np.float32(0.1),
        "mixing": np.float64(0.5),
        "seed": np.int64(7),
        "batch_size": np.int64(3),
    }
    pythons = {"step_size": float(np.float32(0.1)), "mixing": 0.5, "seed": 7, "batch_size": 3}
    runs = [
        fb.run_gossip(
            *(objectives, starts, 5),
            estimator=fb.minibatch(),
            matching=fb.random_matching(),
            **settings,
        )
        for settings in (numpys, pythons)
    ]
    one, other = runs
    assert one.points.dtype == np.float32 and one.points.tobytes() == other.points.tobytes()
    assert one.spreads.tobytes() == other.spreads.tobytes()
    for mine, theirs in zip(one.memories, other.memories, strict=True):
        assert mine[MODEL].dtype == np.float32 and mine[MODEL].tobytes() == theirs[MODEL].tobytes()
    state = GossipState(starts[0], enrolled=dict.fromkeys(range(4), 9))
    mine, theirs = (GossipAlgorithm(fb.minibatch(), **each) for each in (numpys, pythons))
    assert plan_for(mine, state, 0).header() == plan_for(theirs, state, 0).header()
    assert {name: type(getattr(mine, name)) for name in numpys} == {
        name: type(value) for name, value in pythons.items()
    }
