"""One model for clients with gradients, with slopes, and with their loss alone."""

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

import fedbias as fb
from clients import NumpyObjective
from clients.memory import load_ledger
from fedbias.kinds import precisions
from fedbias.ledger import NEVER, settle
from fedbias.problems import Squares
from simulations import LossyGrid
from strategies import FedBias, hybrid_order
from tests.tools.federation import Watched, app_of, train
from tests.tools.kinds import able
from tests.tools.uneven import uneven

DIM = 15
OBJECTIVES = uneven(7, 20, 11, 9, 30, 14, dim=DIM)
CLIENTS = len(OBJECTIVES)
MIXED = able(OBJECTIVES, "gldlgl")
STEP = fb.heavy_ball(0.1, 0.4)
KINDS = {
    "gradient": fb.minibatch(),
    "directional": fb.forward_gradient(5),
    "loss": fb.two_point(3, 1e-4),
}
START = np.linspace(-1, 1, DIM)


def grid_of(objectives, **options):
    return Watched(app_of(objectives), len(objectives), **options)


def started(objectives, rounds, lost=(), intercept=None, start=START, optimizer=STEP, **settings):
    """A run over messages; None stands for a kind that is left at its default."""
    grid = grid_of(objectives, intercept=intercept)
    strategy = hybrid_order(optimizer, minimum_clients=len(objectives), seed=8, **settings)
    lossy = LossyGrid(grid, lambda k, client: (k, client) in lost)
    return train(strategy, lossy, start, rounds), grid


def bits(vectors):
    return {name: (vector.dtype, vector.tobytes()) for name, vector in vectors.items()}


def memories(grid, state):
    """What every client has committed."""
    return [
        bits(settle(load_ledger(context), state.acknowledged.get(node - 1, NEVER)).memory)
        for node, context in sorted(grid.contexts.items())
    ]


# The same run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weights", ["uniform", "examples", "inverse_variance"])
def test_over_messages_as_in_the_loop(weights, dtype):
    """Kills: a kind, a weight or a variance that is lost on its way."""
    settings, start = {"weights": weights, "batch_size": 4}, START.astype(dtype)
    data = [Squares(f.features.astype(dtype), f.targets.astype(dtype)) for f in OBJECTIVES]
    mixed = able(data, "gldlgl")
    run, _ = started(mixed, 6, start=start, **KINDS, **settings)
    loop = fb.run(
        *(mixed, STEP, start, 6),
        estimator=KINDS,
        **settings,
        seed=8,
    )
    assert run.points.dtype == dtype and run.points.tobytes() == loop.points.tobytes()
    assert bits(run.strategy.state.optimizer) == bits(loop.optimizer_state)
    assert [8 * record.uplink_bytes for record in run.records[1:]] == loop.wire_bits.tolist()
    assert [record.applied for record in run.records[1:]] == [6] * 6
    assert set(run.strategy.state.variances) == (
        {"gradient", "loss"} if weights == "inverse_variance" else set()
    )


def test_the_weights_matter():
    """Kills: a choice of weights that is not passed on."""
    points = {
        started(MIXED, 3, **KINDS, batch_size=4, weights=weights)[0].point.tobytes()
        for weights in ("uniform", "examples", "inverse_variance")
    }
    assert len(points) == 3


def test_the_first_two_rounds_by_hand():
    """Gradients (3, 0) and (5, 0) beside the slopes along u and u', losses of x ↦ ⟨c, x⟩: equal
    weights in round 1, and then 1/variance. Kills: a weight from the round that it weighs, the
    variances of the kinds exchanged.
    """

    slopes = [np.array(s) for s in ([3.0, 0.0], [5.0, 0.0], [2.0, 1.0], [0.0, 4.0])]

    def linear(slope, able):
        gradient = (lambda x, b: slope) if able else None
        return NumpyObjective(lambda x, b: float(slope @ x), gradient, dim=2, size=1)

    objectives = [linear(slope, number < 2) for number, slope in enumerate(slopes)]
    strategy = hybrid_order(
        fb.gradient_descent(1.0),
        gradient=fb.exact(),
        loss=fb.two_point(1, 0.5),
        weights="inverse_variance",
        minimum_clients=4,
    )
    grid = grid_of(objectives)
    run = train(strategy, grid, np.zeros(2), 2)
    estimates = []
    for message, reply in grid.sent:
        if message.metadata.message_type == "train":
            estimates.append(fb.decode(fb.Packet.from_bytes(reply.content["fedbias"]["packet"])))
    first, second = np.array(estimates[:4]), np.array(estimates[4:])
    assert first[:2].tolist() == [[3, 0], [5, 0]]
    np.testing.assert_allclose(run.points[1], -first.mean(axis=0), rtol=1e-15)
    spread = first[2:].var(axis=0, ddof=1).sum()
    assert spread > 2  # 2 is that of (3, 0) and (5, 0)
    share = np.array([1, 1, 2 / spread, 2 / spread])
    expected = run.points[1] - share @ second / share.sum()
    np.testing.assert_allclose(run.points[2], expected, rtol=1e-12)
    known = run.checkpoints[1].state.variances
    assert known["gradient"] == (1, 2.0) and known["loss"][1] == pytest.approx(spread)
    assert precisions(known, known)["gradient"] == 1.0


def test_it_is_fedbias_with_an_estimator_per_capability():
    """Kills: a setting that is dropped, a default of its own."""
    strategy = hybrid_order(STEP, **KINDS, batch_size=4, weights="examples", fraction=0.5, seed=3)
    plain = FedBias(
        STEP, fb.by_capability(**KINDS), batch_size=4, weights="examples", fraction=0.5, seed=3
    )
    assert strategy.algorithm == plain.algorithm and strategy.sampling == plain.sampling
    assert type(strategy) is FedBias
    default = hybrid_order(STEP).algorithm
    assert default.estimator == fb.by_capability(
        gradient=fb.minibatch(), loss=fb.two_point(directions=8, radius=1e-3)
    )
    assert default.weights == "uniform"


# Bytes --------------------------------------------------------------------------------------------


def test_seeds_and_vectors_in_one_round():
    """Two gradients of 15 float64, one packet of 5 slopes, three of 3. Kills: seeds that are sent
    as the vectors they stand for, vectors that are counted as seeds.
    """
    run, grid = started(MIXED, 2, **KINDS, batch_size=4)
    vector, five, three = 10 + 8 * DIM + 4, 10 + 12 + 4 * 5 + 4, 10 + 12 + 4 * 3 + 4
    assert [r.uplink_bytes for r in run.records] == [0] + 2 * [2 * vector + five + 3 * three]
    replies = [r for m, r in grid.sent if m.metadata.message_type == "train"]
    records = [reply.content["fedbias"] for reply in replies]
    kinds = [json.loads(record["header"])["kind"] for record in records]
    assert kinds == 2 * ["gradient", "loss", "directional", "loss", "gradient", "loss"]
    size = {"gradient": vector, "directional": five, "loss": three}
    assert [len(record["packet"]) for record in records] == [size[kind] for kind in kinds]


@pytest.mark.parametrize("dim", [10, 10_000])
def test_a_zeroth_order_reply_costs_the_same_at_any_dim(dim):
    """Under 100 bytes and 4 per direction. Kills: anything of the model's size."""
    objectives = able(uneven(2, 2, dim=dim), "ll")
    run, _ = started(objectives, 1, start=np.zeros(dim))
    assert run.records[1].uplink_bytes == 2 * (26 + 4 * 8)


def test_the_compressor_is_for_the_gradients():
    """Kills: slopes that are compressed once more."""
    plain, _ = started(able(OBJECTIVES, "llllll"), 4, **KINDS)
    sparse, _ = started(able(OBJECTIVES, "llllll"), 4, **KINDS, compressor=fb.top_k(0.1))
    assert plain.points.tobytes() == sparse.points.tobytes()
    mixed = [started(MIXED, 1, **KINDS, compressor=c)[0] for c in (fb.identity(), fb.sign())]
    packet = [c.wire_bytes(DIM, np.float64) for c in (fb.identity(), fb.sign())]
    less = mixed[0].records[1].uplink_bytes - mixed[1].records[1].uplink_bytes
    assert less == 2 * (packet[0] - packet[1])


def test_a_federation_of_losses_alone_may_be_told_seeds():
    """Without a gradient estimator even those that have gradients send slopes; with one the seeds
    are refused. Kills: a broadcast that is not passed on.
    """
    settings = {**KINDS, "gradient": None, "batch_size": 4}
    with_model, _ = started(MIXED, 4, **settings)
    with_seeds, grid = started(MIXED, 4, **settings, broadcast="seeds")
    assert with_model.points.tobytes() == with_seeds.points.tobytes()
    with pytest.raises(ValueError, match=r"with minibatch\(\) they send vectors"):
        hybrid_order(STEP, **KINDS, broadcast="seeds")


# Who can do what ----------------------------------------------------------------------------------


def test_without_an_estimator_for_it_a_client_does_what_else_it_can():
    """Kills: a client with gradients that is turned away where slopes are asked for."""
    settings = {**KINDS, "gradient": None}
    _, grid = started(MIXED, 1, **settings)
    kinds = [
        json.loads(r.content["fedbias"]["header"])["kind"]
        for m, r in grid.sent
        if m.metadata.message_type == "train"
    ]
    # Squares have slopes beside their gradients
    assert kinds == ["directional", "loss", "directional", "loss", "directional", "loss"]


def test_who_can_do_nothing_that_is_asked_for_is_refused(warned):
    """And the others go on without them, weights and all. Kills: a refusal that ends the run, an
    exception, a sentence that does not say what to do.
    """
    settings = {**KINDS, "directional": None, "loss": None, "weights": "examples"}
    run, _ = started(MIXED, 3, **settings)
    assert [(r.applied, r.refused) for r in run.records[1:]] == [(2, 4)] * 3
    says = "and the server asks for gradient: name an estimator for loss"
    assert warned()[:2] == [
        f"round 1: refused the reply of client 1: ForwardOnly offers its loss alone, {says}",
        f"round 1: refused the reply of client 2: ForwardOnly offers directional, {says}",
    ]
    loop = fb.run(
        *(MIXED, STEP, START, 3),
        estimator={"gradient": fb.minibatch()},
        weights="examples",
        participation=lambda k: [0, 4],
        seed=8,
    )
    assert run.points.tobytes() == loop.points.tobytes()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"gradient": fb.minibatch(), "loss": None},
            "client 0: ForwardOnly offers its loss alone, and the server asks for gradient: name "
            "an estimator for loss",
        ),
        (
            {"gradient": fb.minibatch(), "directional": fb.forward_gradient(2), "loss": None},
            "the server asks for gradient or directional: name an estimator for loss",
        ),
    ],
)
def test_a_federation_that_nobody_can_take_part_in_ends(settings, says):
    """In round 1. Kills: all the rounds for nothing."""
    with pytest.raises(ValueError) as caught:
        started(able(OBJECTIVES, "llllll"), 5, **settings)
    assert str(caught.value).startswith("no client could do its part; ")
    assert says in str(caught.value)


def test_a_first_order_estimator_for_all_ends_too():
    """Without a choice by capability. Kills: a sentence that names no capability."""
    grid = grid_of(able(OBJECTIVES, "llllll"))
    with pytest.raises(ValueError, match=r"client 0: exact\(\) needs gradient, which ForwardOnly"):
        train(FedBias(STEP, fb.exact(), minimum_clients=6), grid, START, 5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"gradient": None, "loss": None}, "by_capability: name an estimator for one of"),
        ({"loss": fb.minibatch()}, "needs gradient"),
        ({"directional": fb.minibatch()}, "needs gradient"),
        ({"gradient": fb.by_capability(loss=fb.two_point(1, 1.0))}, "must be a single estimator"),
        ({"loss": 3}, "by_capability: loss must be"),
        ({"gradient": None, "weights": "inverse_variance"}, "compares kinds of estimates"),
        ({"weights": "variance"}, "weights must be one of"),
        (
            {"weights": "inverse_variance", "feedback": fb.ef21()},
            "weighs a round's replies, and ef21\\(\\) steps along everybody's memory",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(settings, says):
    with pytest.raises(ValueError, match=says):
        hybrid_order(STEP, **settings)


def test_a_machine_with_another_generator_is_turned_away(warned):
    """Its seeds would stand for other directions. Kills: estimates that are noise."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        if message.metadata.message_type != "query.hello" or context.node_id != 4:
            return reply
        told = json.loads(reply.content["fedbias"]["header"]) | {"fingerprint": "f" * 16}
        record = ConfigRecord({"header": json.dumps(told)})
        return Message(RecordDict({"fedbias": record}), reply_to=message)

    grid = Watched(app_of(MIXED, [mod]), CLIENTS)
    strategy = hybrid_order(STEP, **KINDS, minimum_clients=CLIENTS - 1, seed=8)
    run = train(strategy, grid, START, 3)
    assert warned() == [
        "node 4 cannot take part: client 3 draws other random numbers: use the same numpy version"
    ]
    loop = fb.run(
        *(MIXED, STEP, START, 3),
        estimator=KINDS,
        participation=lambda k: [0, 1, 2, 4, 5],
        seed=8,
    )
    assert run.points.tobytes() == loop.points.tobytes()


@pytest.mark.parametrize("kind", ["", "hvp", "Gradient", 3, None])
def test_a_kind_that_nobody_was_asked_for_is_refused(kind, warned):
    """Kills: a weight for a kind that has none."""

    def other(message, reply):
        record = dict(reply.content["fedbias"])
        record["header"] = json.dumps(json.loads(record["header"]) | {"kind": kind})
        return Message(RecordDict({"fedbias": ConfigRecord(record)}), reply_to=message)

    run, _ = started(MIXED, 3, **KINDS, intercept={(1, 1): other})
    assert [record.refused for record in run.records] == [0, 0, 1, 0]
    assert "kind" in warned()[0]


def test_more_directions_than_were_asked_for_are_refused(warned):
    """Five where three were. Kills: a few bytes that cost the server a minute each."""

    def more(message, reply):
        record = dict(reply.content["fedbias"])
        packet = fb.Packet.from_bytes(record["packet"])
        longer = fb.Packet(packet.codec, packet.dtype, DIM, None, (1, 5), 5 * packet.payload[:4])
        record["packet"] = bytes(longer)
        return Message(RecordDict({"fedbias": ConfigRecord(record)}), reply_to=message)

    run, _ = started(MIXED, 2, **KINDS, intercept={(0, 1): more})
    assert [record.refused for record in run.records] == [0, 1, 0]
    assert "names 5 directions, not at most 3" in warned()[0]


# Exactly once -------------------------------------------------------------------------------------

LOST = {(0, 0), (1, 1), (1, 4), (2, 2), (3, 0), (3, 5), (5, 4), (6, 1), (6, 3), (7, 0)}
REMEMBERING = {
    "gradient": fb.local_steps(2, 0.1, momentum=0.5, inner=fb.minibatch("reshuffle")),
    "loss": fb.two_point(4, 1e-3),
    "weights": "inverse_variance",
    "batch_size": 5,
    "compressor": fb.top_k(0.2),
    "feedback": fb.error_feedback(),
}


@pytest.mark.parametrize(
    "optimizer", [STEP, fb.nesterov(0.05, 0.5), fb.adam(0.02)], ids=lambda o: o.name
)
def test_a_lost_reply_is_one_that_was_not_asked_for(optimizer):
    """Points, optimizer, variances and memories. Kills: an error, a local momentum, a shuffled
    order or a variance that moves although nobody heard of it.
    """
    run, grid = started(MIXED, 9, LOST, optimizer=optimizer, **REMEMBERING)
    assert sum(record.lost for record in run.records) == len(LOST)
    states = []
    settings = {key: part for key, part in REMEMBERING.items() if key not in ("gradient", "loss")}
    loop = fb.run(
        *(MIXED, optimizer, START, 9),
        estimator={key: REMEMBERING[key] for key in ("gradient", "loss")},
        **settings,
        participation=lambda k: [c for c in range(CLIENTS) if (k, c) not in LOST],
        on_round=lambda k, state, outcome: states.append(state),
        seed=8,
    )
    assert run.points.tobytes() == loop.points.tobytes()
    for mine, theirs in zip(run.checkpoints[1:], states, strict=True):
        assert bits(mine.state.optimizer) == bits(theirs.optimizer)
        assert mine.state.variances == theirs.variances
        assert mine.state.acknowledged == theirs.acknowledged
    kept = memories(grid, run.strategy.state)
    assert kept == [bits(memory) for memory in loop.memories]
    assert [bool(memory) for memory in kept] == [True, False, False, False, True, False]
