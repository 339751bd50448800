"""The sharpness over Flower: the loop's readings bit for bit, the bytes, and clients that fail."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

import fedbias as fb
from clients import NumpyObjective
from fedbias.directions import combination
from fedbias.ledger import LOST_MODEL
from fedbias.problems import Squares
from fedbias.problems.linear import mean_hessian
from fedbias.rounds import dense
from simulations import InlineGrid, LossyGrid
from simulations.engines.inline import export_states, import_states
from strategies import FedBias, load_checkpoint, save_checkpoint, sharpness_step
from strategies.broadcast import size_of
from tests.tools.federation import app_of, named, train
from tests.tools.kinds import able
from tests.tools.surveys import (
    SIZES,
    Surveyed,
    answering,
    failing,
    header_of,
    logistic,
    record_of,
)
from tests.tools.uneven import uneven

OBJECTIVES = logistic(*SIZES)
DIM, CLIENTS = OBJECTIVES[0].dim, len(OBJECTIVES)
START = np.linspace(-1, 1, DIM)
STEP = fb.gradient_descent(0.5)
EACH = fb.lanczos(every=2, steps=3, tolerance=0)
RULE = fb.by_sharpness(1.5, hysteresis=0.01)
NOT_YET = "round 1: the sharpness was not measured, there is none yet: "
AS_BEFORE = "round 3: the sharpness was not measured, the last one holds: "


def grid_of(objectives=OBJECTIVES, change=None, **options):
    return Surveyed(app_of(objectives), len(objectives), change, **options)


def flower(grid, optimizer=STEP, rounds=5, start=START, **settings):
    settings = {"sharpness": EACH, "minimum_clients": CLIENTS, "seed": 3} | settings
    return train(FedBias(optimizer, **settings), grid, start, rounds)


def loop(objectives=OBJECTIVES, optimizer=STEP, rounds=5, start=START, **settings):
    return fb.run(
        objectives, optimizer, start, rounds, **({"sharpness": EACH, "seed": 3} | settings)
    )


def readings(run):
    """Of every checkpoint, without the repeated ones."""
    found = [checkpoint.state.sharpness for checkpoint in run.checkpoints]
    return [r for r, before in zip(found, [None, *found], strict=False) if r not in (None, before)]


def as_the_loop(run, history):
    """The same points, readings, step sizes and losses, as bits."""
    assert run.points.tobytes() == history.points.tobytes()
    assert readings(run) == history.readings
    measured = {r.round + 1: r for r in history.readings}
    for record, outcome in zip(run.records[1:], history.outcomes, strict=True):
        assert (record.step_size, record.train_loss) == (outcome.step_size, outcome.loss)
        limit = outcome.stability_limit
        assert record.stability_limit == (None if np.isnan(limit) else limit)
        reading = measured.get(record.round)
        assert record.sharpness == (reading and reading.value)
        assert record.sharpness_residual == (reading and reading.residual)
        assert record.sharpness_spread == (reading and reading.spread)
        assert record.sharpness_clients == (reading and reading.clients)
        assert record.sharpness_products == (reading and reading.products)
        assert record.unmeasured == history.unmeasured.get(record.round - 1)


# The loop's run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weights": "examples", "steering": RULE},
        {"optimizer": fb.heavy_ball(0.5, 0.4), "steering": fb.by_sharpness(3.0, 0)},
        {"optimizer": fb.nesterov(0.5, 0.4), "steering": RULE, "measure_bias": 2},
        {
            "sharpness": fb.lanczos(1, 4, fraction=0.6),
            "steering": RULE,
            "estimator": fb.minibatch(),
            "batch_size": 5,
            "compressor": fb.top_k(0.3),
            "feedback": fb.error_feedback(),
        },
        {
            "steering": RULE,
            "compressor": fb.uniform(bits=3),
            "feedback": fb.ef21(),
            "weights": "examples",
        },
        {"estimator": fb.local_steps(2, 0.1), "optimizer": fb.adam(0.05)},
    ],
    ids=["measured", "steered", "momentum", "nesterov", "a sample, top_k", "ef21", "adam"],
)
def test_flower_is_the_loop(settings, dtype):
    """Points, readings, step sizes, limits and losses as bits, with lost replies. Kills: another
    order of sums, another start or sample, a size that is one round late.
    """
    objectives = [
        replace(f, features=f.features.astype(dtype), labels=f.labels.astype(dtype))
        for f in OBJECTIVES
    ]
    gone, start = {(0, 3), (2, 1), (3, 0), (3, 4)}, START.astype(dtype)
    optimizer = settings.get("optimizer", STEP)
    rest = {name: value for name, value in settings.items() if name != "optimizer"}
    grid = LossyGrid(grid_of(objectives), lambda k, client: (k, client) in gone)
    run = flower(grid, optimizer, start=start, **rest)
    history = loop(
        *(objectives, optimizer),
        start=start,
        lost=lambda k: [client for round, client in gone if round == k],
        **rest,
    )
    as_the_loop(run, history)
    assert history.readings and not history.unmeasured
    if "steering" in rest:
        assert all(outcome.step_size != 0.5 for outcome in history.outcomes)


@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_it_is_the_mean_hessians_top(weights):
    """Against dense eigenvalues, to 1e-10. Kills: what the loop and Flower could both get wrong."""
    whole = fb.lanczos(every=2, steps=50, tolerance=0)
    run = flower(grid_of(), weights=weights, sharpness=whole)
    share = np.array(SIZES if weights == "examples" else [1] * CLIENTS) / 1.0
    assert [record.round for record in run.records if record.sharpness] == [1, 3, 5]
    for record in run.records[1::2]:
        parts = [mean_hessian([f], run.points[record.round - 1]) for f in OBJECTIVES]
        exact = np.linalg.eigvalsh(np.tensordot(share / share.sum(), parts, 1))[-1]
        assert record.sharpness == pytest.approx(exact, rel=1e-10)


def test_the_strategy_with_its_name():
    """Kills: arguments in the wrong places."""
    made = sharpness_step(1.5, fb.polyak(0.1, 0.2), hysteresis=0.3, smallest=1e-3, largest=2.0)
    assert made.algorithm.steering == fb.by_sharpness(1.5, 0.3, 1e-3, 2.0)
    assert made.algorithm.sharpness == fb.lanczos(every=10)
    assert made.algorithm.optimizer == fb.polyak(0.1, 0.2)
    grid, settings = grid_of(), {"minimum_clients": CLIENTS, "seed": 3}
    run = train(sharpness_step(1.5, sharpness=EACH, **settings), grid, START, 5)
    history = loop(optimizer=fb.gradient_descent(0.01), steering=fb.by_sharpness(1.5))
    as_the_loop(run, history)
    with pytest.raises(ValueError, match="by_sharpness: c must be > 0 and < 2"):
        sharpness_step(2.0)


def test_the_sample_is_not_the_training_sample():
    """Kills: one draw for both, a training sample that changes with the measurement."""
    whole = uneven(*[9] * 10)
    half = {"fraction": 0.5, "minimum_clients": 10, "start": np.zeros(4), "rounds": 8}
    grid, plain = grid_of(whole), grid_of(whole)
    flower(grid, sharpness=fb.lanczos(1, 2, fraction=0.5), **half)
    flower(plain, sharpness=None, **half)
    assert grid.asked() == plain.asked()
    asked = grid.queries()
    for k in range(8):
        measured = {client for round, client, _ in asked if round == k}
        trained = {client for round, client in grid.asked() if round == k}
        assert len(measured) == len(trained) == 5
    same = [
        {c for r, c, _ in asked if r == k} == {c for r, c in grid.asked() if r == k}
        for k in range(8)
    ]
    assert sum(same) <= 1


def test_seeds_for_the_model():
    """Clients follow steps of measured sizes, bit for bit; the model goes out once to be measured.
    Kills: steps of the optimizer's own size in the message.
    """
    dim = 300
    quadratics = uneven(7, 20, 11, 9, 30, dim=dim)
    blind = able(quadratics, "lllll")
    for one, whole in zip(blind, quadratics, strict=True):
        one.hvp = whole.hvp
    settings = {
        "estimator": fb.two_point(2, 1e-3),
        "sharpness": fb.lanczos(every=3, steps=3),
        "steering": fb.by_sharpness(0.003, hysteresis=0),
        "start": np.linspace(-1, 1, dim),
        "rounds": 7,
    }
    run = flower(grid := grid_of(blind), broadcast="seeds", **settings)
    as_the_loop(run, loop(blind, **settings))
    kinds = [("point" in record_of(m)) for m, _ in grid.sent if m.metadata.message_type == "train"]
    assert kinds == [True] * 5 + [False] * 30
    assert len({record.step_size for record in run.records[1:]}) == 3


# Bytes --------------------------------------------------------------------------------------------


def test_a_product_is_one_vector_each_way():
    """Every packet counted: the point once per client and measurement, never a matrix; the record's
    bytes are those of the messages. Kills: the point with every product, bytes left out.
    """
    run = flower(grid := grid_of(), rounds=3)
    assert len(run.records) == 4
    vector, counted = len(dense(START)), 0
    per_client = {(k, m): [] for k in (0, 2) for m in range(CLIENTS)}
    for message, reply in grid.sent:
        if message.metadata.message_type != "query.hvp":
            continue
        record, header = dict(record_of(message)), header_of(message)
        per_client[header["round"], header["client"]].append("point" in record)
        assert set(record) <= {"header", "vector", "point"}
        assert len(record["vector"]) == vector == 14 + 8 * DIM
        assert len(record.get("point", record["vector"])) == vector
        assert len(record["header"]) < 100
        (product,) = dict(record_of(reply)).values()
        assert len(product) == vector
        if header["round"] == 2:
            counted += size_of(record) + len(product)
    assert per_client == dict.fromkeys(per_client, [True, False, False, False])
    assert [record.sharpness_bytes for record in run.records][1:] == [
        run.records[1].sharpness_bytes,
        None,
        counted,
    ]
    packets = CLIENTS * (4 * 2 + 1) * vector
    assert packets < counted < packets + 4 * CLIENTS * 100
    plain = flower(grid_of(), rounds=3, sharpness=None)
    assert [(r.uplink_bytes, r.downlink_bytes) for r in run.records] == [
        (r.uplink_bytes, r.downlink_bytes) for r in plain.records
    ]
    assert all(r.sharpness is r.sharpness_bytes is r.unmeasured is None for r in plain.records)


def test_queries_are_encoded_once_for_all():
    """Kills: a copy of the model's bytes for each of a thousand clients."""
    flower(grid := grid_of(), rounds=1)
    sent = [record_of(m) for m, _ in grid.sent if m.metadata.message_type == "query.hvp"]
    assert len({id(record["point"]) for record in sent if "point" in record}) == 1
    assert len({id(record["vector"]) for record in sent}) == 4


def held(grid):
    """The nodes that keep a point to be measured at."""
    return [n for n, context in grid.contexts.items() if any("sharp" in k for k in context.state)]


@pytest.mark.parametrize("fraction", [0.4, 1.0])
@pytest.mark.parametrize("measured", [0.6, 1.0])
def test_nothing_of_a_reading_stays(fraction, measured):
    """With clients that train and others that do not: all of them let go of the point with its last
    product, and a checkpoint of them is as without measuring. Kills: a model's worth of memory that
    clients keep.
    """
    settings = {"compressor": fb.top_k(0.3), "feedback": fb.error_feedback(), "fraction": fraction}
    whole = fb.lanczos(every=2, steps=3, tolerance=0, fraction=measured)
    for rounds in (1, 2, 3):
        flower(grid := grid_of(), rounds=rounds, sharpness=whole, **settings)
        flower(plain := grid_of(), rounds=rounds, sharpness=None, **settings)
        assert len(grid.queries()) == (1 + (rounds > 2)) * 4 * round(measured * CLIENTS)
        assert held(grid) == []
        (arrays, values), (others, plainly) = (export_states(g.contexts) for g in (grid, plain))
        assert values == plainly and arrays.keys() == others.keys()
        assert all(arrays[name].tobytes() == others[name].tobytes() for name in arrays)


def test_a_failed_reading_leaves_its_point_until_the_next():
    """Kills: points that pile up."""
    for rounds, kept in ((1, [1, 2, 3, 4, 5]), (2, [1, 2, 3, 4, 5]), (3, [])):
        flower(grid := grid_of(change={2: failing(3)}), rounds=rounds)
        assert held(grid) == kept


def test_bytes_of_a_reading_that_fails():
    """All the answers that arrived, before and after the one that fails. Kills: bytes that are free
    because another client failed.
    """
    run = flower(grid := grid_of(change={1: failing(3)}), rounds=1)
    asked = [(m, r) for m, r in grid.sent if m.metadata.message_type == "query.hvp"]
    assert len(asked) == 3 * CLIENTS and run.records[1].unmeasured == "client 1: no memory left"
    sent = sum(size_of(record_of(message)) for message, _ in asked)
    came = (3 * CLIENTS - 1) * len(dense(START))
    assert run.records[1].sharpness_bytes == sent + came


# Clients that fail --------------------------------------------------------------------------------


def silent(at):
    return lambda n, message, reply: [] if n == at else reply


def unavailable(*at, code=4):
    return lambda n, m, reply: Message(Error(code, "gone"), reply_to=m) if n in at else reply


VECTOR = np.cos(np.arange(float(DIM)))
NAN = bytes(fb.Packet("identity", np.dtype(float), DIM, None, (), np.full(DIM, np.nan).tobytes()))
FAILURES = {
    "an error": (failing(3), "client 2: no memory left"),
    "an error at once": (failing(1), "client 2: no memory left"),
    "an error at the residual": (failing(4), "client 2: no memory left"),
    "never": (silent(3), "client 2 did not answer within 3600 s"),
    "undelivered twice": (unavailable(2, 3), "client 2 does not answer, or does not keep the poi"),
    "undelivered, then an error": (
        lambda n, m, reply: failing(3)(n, m, unavailable(2)(n, m, reply)),
        "client 2: no memory left",
    ),
    "too short": (
        answering(dense(VECTOR[:-1]), 2),
        "client 2: expected a vector of dim 7, the pack",
    ),
    "too long": (answering(dense(np.ones(8)), 2), "client 2: expected a vector of dim 7, the pack"),
    "a matrix": (
        answering(dense(np.ones(49)), 2),
        "client 2: expected a vector of dim 7, the pack",
    ),
    "NaN": (answering(NAN, 2), "client 2: 7 entries are NaN or infinite"),
    "another dtype": (
        answering(dense(np.float32(VECTOR)), 3),
        "client 2: the packet has dtype float32, not float64",
    ),
    "cut off": (answering(dense(VECTOR)[:-1], 3), "client 2: "),
    "text": (answering("a product", 3), "client 2: the record carries no packet 'product'"),
    "seeds": (
        answering(bytes(combination(5, np.ones(2), DIM, float)), 3),
        "client 2: the packet names 2 directions, not at most 0",
    ),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_client_that_fails_in_the_middle(kind, warned):
    """Said in the log and in the record; training goes on as ever, and so does the next reading.
    Kills: an end of the run, an eigenvalue of a broken operator, a reason that nobody hears.
    """
    change, sentence = FAILURES[kind]
    run = flower(grid_of(change={2: change}))
    said = [record.unmeasured for record in run.records[1:]]
    assert said[0].startswith(sentence) and said[1:] == [None] * 4
    assert warned() == [NOT_YET + said[0]]
    history = loop()
    assert run.points.tobytes() == history.points.tobytes()
    assert readings(run) == history.readings[1:]
    first = run.records[1]
    assert first.sharpness is None and first.sharpness_products is None
    assert first.sharpness_bytes > 0


@pytest.mark.parametrize("at", [1, 6, 12])
def test_steps_go_on_with_the_last_size(at, warned):
    """Client 2 fails in the first, second or third measurement. Kills: a size that is forgotten."""

    def broken(n, message, reply):
        return failing(at)(n, message, reply)

    run = flower(grid_of(change={2: broken}), rounds=6, steering=RULE)
    lost = (at - 1) // 4
    measured = {r.round: r.value for r in readings(run)}
    assert sorted(measured) == [k for k in (0, 2, 4) if k != 2 * lost]
    before = (
        NOT_YET if at == 1 else f"round {2 * lost + 1}: the sharpness was not measured, the last "
    )
    (said,) = warned()
    assert said.startswith(before) and said.endswith("client 2: no memory left")
    sizes, now = [], None
    for k in range(6):
        now = RULE.step_size(now, measured[k]) if k in measured else now
        sizes.append(0.5 if now is None else now)
    assert [record.step_size for record in run.records[1:]] == sizes
    assert len(set(sizes)) > 1


@pytest.mark.parametrize("code", [3, 4, 5])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_who_was_not_reached_is_asked_again(code, at, warned):
    """Once, with the point: it may not have got that. The reading and the points are the loop's.
    Kills: a measurement that one lost message ends, one that asks everybody again.
    """
    run = flower(grid := grid_of(change={2: unavailable(at, code=code)}), rounds=3, steering=RULE)
    as_the_loop(run, loop(rounds=3, steering=RULE))
    asked = [(client, point) for k, client, point in grid.queries() if k == 0]
    usual = [(m, n == 0) for n in range(4) for m in range(CLIENTS)]
    assert asked == [*usual[: at * CLIENTS], (2, True), *usual[at * CLIENTS :]]
    assert warned() == [] and held(grid) == []


@pytest.mark.parametrize("at", [1, 2, 4])
def test_who_lost_the_point_is_sent_it_again(at, warned):
    """A process that restarts between two products: the reading is the same, the others are not
    asked again. Kills: a measurement that is lost, a point for everyone.
    """
    grid = grid_of()

    def restarted(n, message, reply):
        if n != at:
            return reply
        context = grid.contexts[3]
        context.state = RecordDict()
        return grid._app(message, context)

    if at == 1:  # it got the point with this very message
        restarted = failing(9)
        grid.contexts[3].state = RecordDict()
    grid.change = {2: restarted}
    run = flower(grid, rounds=1)
    as_the_loop(run, loop(rounds=1))
    again = [query for query in grid.queries() if query[2]]
    assert again == [(0, m, True) for m in range(5)] + [(0, 2, True)] * (at > 1)
    assert len(grid.queries()) == 4 * CLIENTS + (at > 1)
    assert warned() == []


def test_a_client_that_never_keeps_anything(warned):
    """Its state does not last: it is sent the point each time, at one more message. Kills: an
    endless loop, a point that only goes out twice.
    """

    class Forgetful(Surveyed):
        def _answer(self, message):
            if message.metadata.dst_node_id == 2:
                self.contexts[2].state = RecordDict()
            return super()._answer(message)

    run = flower(grid := Forgetful(app_of(OBJECTIVES), CLIENTS), rounds=1)
    as_the_loop(run, loop(rounds=1))
    assert [point for _, client, point in grid.queries() if client == 1] == [
        *(True, False, True, False, True, False, True)
    ]
    assert warned() == []


def test_one_who_says_so_for_good(warned):
    """Kills: an endless loop over a client that keeps losing the point."""

    def lost(n, message, reply):
        return Message(Error(LOST_MODEL, "nothing here"), reply_to=message)

    run = flower(grid := grid_of(change={1: lost}), rounds=2)
    sentence = "client 1 does not answer, or does not keep the point that it was sent"
    assert run.records[1].unmeasured == sentence
    assert [client for _, client, _ in grid.queries()] == [0, 1, 2, 3, 4, 1]
    assert run.points.tobytes() == loop(rounds=2).points.tobytes()


def test_repeated_replies_change_nothing():
    """The network delivers a product twice. Kills: a client that counts twice."""
    run = flower(grid_of(change={2: lambda n, message, reply: [reply, reply]}))
    as_the_loop(run, loop())


def test_the_order_of_arrival_does_not_matter():
    """Nor for who is said to have failed. Kills: sums, or reasons, in the order of the network."""

    class Reversed(Surveyed):
        def pull_messages(self, message_ids):
            known = sorted(message_ids, key=list(self._replies).index, reverse=True)
            return super().pull_messages(known)

    run = flower(Reversed(app_of(OBJECTIVES), CLIENTS), sharpness=fb.lanczos(2, 6, 0))
    as_the_loop(run, loop(sharpness=fb.lanczos(2, 6, 0)))
    for kind in (Surveyed, Reversed):
        broken = kind(app_of(OBJECTIVES), CLIENTS, {m: failing(2) for m in (1, 3, 4)})
        assert flower(broken, rounds=1).records[1].unmeasured == "client 1: no memory left"


def test_a_reply_of_a_stranger(warned):
    """A node that nobody enrolled answers for client 1. Kills: a KeyError."""

    def stranger(n, message, reply):
        reply.metadata.__dict__["_src_node_id"] = 99
        return reply

    run = flower(grid_of(change={1: stranger}), rounds=1)
    assert run.records[1].unmeasured == "node 99 is not enrolled any more"
    assert run.points.tobytes() == loop(rounds=1).points.tobytes()


@pytest.mark.parametrize("times", [1, 2])
def test_a_node_that_is_gone_while_it_is_measured(times, warned):
    """For one product, or so long that it is asked again in vain; and back for the next reading.
    Kills: a wait for a node that is not listed.
    """

    class Leaving(Surveyed):
        def push_messages(self, messages):
            pushed = list(messages)
            left = (
                pushed
                and pushed[0].metadata.message_type == "query.hvp"
                and len(self.queries()) in (10, 15)[:times]
            )
            kept = self.contexts.pop(5) if left else None
            ids = super().push_messages(pushed)
            if left:
                self.contexts[5] = kept
                self.contexts = dict(sorted(self.contexts.items()))
            return ids

    run = flower(Leaving(app_of(OBJECTIVES), CLIENTS))
    assert run.points.tobytes() == loop().points.tobytes()
    if times == 1:
        as_the_loop(run, loop())
        return
    why = "client 4 does not answer, or does not keep the point that it was sent"
    assert [r.unmeasured for r in run.records[1:]] == [why, *[None] * 4]


class Away(Surveyed):
    """Client 4 is not there after round 1, for so many looks at who is."""

    def __init__(self, looks):
        super().__init__(app_of(OBJECTIVES), CLIENTS)
        self.looks, self.left = looks, 0

    def push_messages(self, messages):
        pushed = list(messages)
        ids = super().push_messages(pushed)
        if pushed and self.asked()[-1:] == [(1, 4)]:
            self.left, self.looks = self.looks or self.left, 0
        return ids

    def get_node_ids(self):
        self.left -= self.left > 0
        return [node for node in super().get_node_ids() if node != 5 or not self.left]

    def _answer(self, message):
        if message.metadata.dst_node_id == 5 and self.left:
            return Message(Error(5, "away"), reply_to=message)
        return super()._answer(message)


def test_a_reading_waits_as_a_round_does():
    """For ``minimum_replies`` clients. Kills: a reading of those that happen to be there, one that
    asks who is not.
    """
    run = flower(Away(4), minimum_replies=CLIENTS)
    as_the_loop(run, loop())
    assert [r.sharpness_clients for r in run.records[1::2]] == [5, 5, 5]


def test_a_reading_of_those_that_are_there(warned):
    """Client 4 is away in rounds 3 and 4; nobody knows how far it is from the others. Kills: a
    spread of 0, a node that is asked though it is not listed.
    """
    run = flower(grid := Away(4), steering=RULE)
    assert [r.sharpness_clients for r in run.records[1::2]] == [5, 4, 5]
    assert [r.sharpness_spread for r in run.records[1::2]] == [0, None, 0]
    assert {client for k, client, _ in grid.queries() if k == 2} == {0, 1, 2, 3}
    assert warned() == [
        "round 3: steps follow the sharpness of the 4 clients that are there and can compute "
        "Hessian-vector products, of 5"
    ]


# Clients that cannot ------------------------------------------------------------------------------


def blind(objective):
    return NumpyObjective(objective.loss, objective.gradient, dim=DIM, size=objective.size)


def test_clients_without_products_are_not_asked():
    """Kills: an error of theirs that ends the measurement, a mean that counts them."""
    mixed = [OBJECTIVES[0], blind(OBJECTIVES[1]), *OBJECTIVES[2:]]
    run = flower(grid := grid_of(mixed), steering=RULE)
    as_the_loop(run, loop(mixed, steering=RULE))
    assert {client for _, client, _ in grid.queries()} == {0, 2, 3, 4}
    assert {r.sharpness_clients for r in run.records[1::2]} == {4}


@pytest.mark.parametrize("rule", [None, RULE])
def test_two_of_four(rule, warned):
    """Steps that follow half of the federation are said to. Kills: a spread of 0, silence; a
    warning where nothing follows.
    """
    mixed = [OBJECTIVES[0], blind(OBJECTIVES[1]), blind(OBJECTIVES[2]), OBJECTIVES[3]]
    settings = {"steering": rule, "rounds": 3}
    run = flower(grid_of(mixed), minimum_clients=4, **settings)
    as_the_loop(run, loop(mixed, **settings))
    assert [(r.sharpness_clients, r.sharpness_spread) for r in run.records[1::2]] == [(2, None)] * 2
    assert warned() == [
        f"round {k}: steps follow the sharpness of the 2 clients that are there and can compute "
        "Hessian-vector products, of 4"
        for k in (1, 3)
        if rule
    ]


def test_nobody_has_products(warned):
    """Said each time; training goes on with the optimizer's own size. Kills: an end of the run."""
    nobody = [blind(objective) for objective in OBJECTIVES]
    run = flower(grid := grid_of(nobody), steering=RULE)
    as_the_loop(run, loop(nobody))
    why = "no client is there that offers Hessian-vector products (hvp)"
    assert [r.unmeasured for r in run.records[1:]] == [why, None, why, None, why]
    assert [r.sharpness_bytes for r in run.records[1:]] == [0, None, 0, None, 0]
    assert warned() == [
        f"round {k}: the sharpness was not measured, there is none yet: {why}" for k in (1, 3, 5)
    ]
    assert {record.step_size for record in run.records[1:]} == {0.5}
    assert grid.queries() == []


@pytest.mark.parametrize(("curvature", "shown"), [(0.0, "0"), (-3.0, "-3")])
def test_no_step_size_follows_from_a_flat_or_concave_loss(curvature, shown, warned):
    """The reading is kept; the log says why the step size stays. Kills: silence, a step of ∞."""

    def hill():
        return NumpyObjective(
            lambda x, b: float(curvature * x @ x / 2),
            lambda x, b: curvature * x,
            lambda x, v, b: curvature * v,
            dim=2,
            size=1,
        )

    hills = [hill() for _ in range(CLIENTS)]
    run = flower(grid_of(hills), start=np.ones(2), rounds=3, steering=RULE)
    as_the_loop(run, loop(hills, start=np.ones(2), rounds=3, steering=RULE))
    assert [r.sharpness for r in run.records[1:]] == pytest.approx([curvature, None, curvature])
    assert {r.step_size for r in run.records[1:]} == {0.5}
    assert warned() == [
        f"round {k}: the sharpness is {shown}: no step size follows from it, the last one stays"
        for k in (1, 3)
    ]
    warned_before = len(warned())
    flower(grid_of(hills), start=np.ones(2), rounds=3)  # without a rule there is nothing to say
    assert len(warned()) == warned_before


@pytest.mark.parametrize("smallest", [1e-6, 9.0])
def test_a_smallest_size_beyond_the_limit(smallest, warned):
    """Is taken, and the log says so. Kills: silence; a warning where the rule's share is kept."""
    rule = fb.by_sharpness(1.0, smallest=smallest)
    run = flower(grid_of(), rounds=3, steering=rule)
    as_the_loop(run, loop(rounds=3, steering=rule))
    known = {r.round: r.sharpness for r in run.records[1::2]}
    assert warned() == [
        f"round {k}: the smallest step size allowed, 9, is beyond the limit at a sharpness of "
        f"{value:.3g}"
        for k, value in known.items()
        if smallest == 9
    ]
    assert {r.step_size == 9 for r in run.records[1:]} == {smallest == 9}


def test_what_a_user_hears(caplog):
    """One line per reading, the settings before, and the numbers in Flower's result. Kills: a
    measurement that nobody sees who has no records.
    """
    caplog.set_level("INFO", "flwr")
    run = flower(grid_of(), rounds=3, steering=RULE)
    run.strategy.summary()
    lines = [r.getMessage() for r in caplog.records if "sharpness" in r.getMessage()]
    first, third = (run.records[k].sharpness for k in (1, 3))
    assert lines == [
        f"round 1: sharpness {first:.4g} (4 products)",
        f"round 3: sharpness {third:.4g} (4 products)",
        lines[-1],
    ]
    assert f"{EACH}, {RULE}" in lines[-1]
    metrics = run.result.train_metrics_clientapp
    assert [metrics[k].get("sharpness") for k in (1, 2, 3)] == [first, None, third]
    assert [metrics[k]["step_size"] for k in (1, 2, 3)] == [r.step_size for r in run.records[1:]]


# What an objective does --------------------------------------------------------------------------


def spoilt(change):
    """The clients, the third of whom changes the first product that it is asked for."""
    whole, count = OBJECTIVES[2], 0

    def hvp(x, v, b):
        nonlocal count
        count += 1
        return change(whole.hvp(x, v, b)) if count == 1 else whole.hvp(x, v, b)

    one = NumpyObjective(whole.loss, whole.gradient, hvp, dim=DIM, size=whole.size)
    return [*OBJECTIVES[:2], one, *OBJECTIVES[3:]]


def raising(reason):
    def change(product):
        raise reason

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (raising(RuntimeError("out of memory")), "RuntimeError: out of memory"),
        (raising(ZeroDivisionError("by zero")), "ZeroDivisionError: by zero"),
        (raising(ImportError("no torch")), "no torch"),
        (lambda product: product.tolist(), "AttributeError: 'list' object has no attribute 'shap"),
    ],
    ids=["RuntimeError", "ZeroDivisionError", "ImportError", "a list"],
)
def test_whatever_an_objective_raises(change, sentence):
    """The loop's words, and its points. Kills: a run that ends, other words here than there."""
    run, history = flower(grid_of(spoilt(change))), loop(spoilt(change))
    as_the_loop(run, history)
    assert run.records[1].unmeasured.startswith(f"client 2: {sentence}")


@pytest.mark.parametrize("steps", [1, 4])
def test_products_beyond_the_range(steps):
    """±1.7e308 in 1000 entries: a length that is no number. Kills: a warning of numpy's, a run that
    ends, another sentence than the loop's.
    """
    rows = np.ones((1, 1000))
    squares = [Squares(rows, np.zeros(1), 1.0) for _ in range(3)]
    huge = np.where(np.arange(1000) % 3 == 0, 1.7e308, -1.7e308)
    wide = NumpyObjective(
        squares[1].loss, squares[1].gradient, lambda x, v, b: huge, dim=1000, size=1
    )
    clients = [squares[0], wide, squares[2]]
    settings = {
        "optimizer": fb.gradient_descent(1e-4),
        "start": np.ones(1000),
        "rounds": 3,
        "sharpness": fb.lanczos(every=2, steps=steps, tolerance=0),
        "steering": RULE,
    }
    run = flower(grid_of(clients), minimum_clients=3, **settings)
    as_the_loop(run, loop(clients, **settings))
    said = {r.unmeasured for r in run.records[1::2]}
    assert said == {"the Hessian-vector products are beyond the range of their numbers"}


# Resumed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [1, 2, 3])
@pytest.mark.parametrize("clients", ["as they were", "new"])
def test_interrupted_is_uninterrupted(when, clients, tmp_path):
    """Through a file, before and after a measurement: the last reading and size are there. Kills: a
    size that falls back to the optimizer's, a reading that is lost.
    """
    settings = {
        "optimizer": fb.heavy_ball(0.5, 0.4),
        "sharpness": fb.lanczos(every=3, steps=3),
        "steering": fb.by_sharpness(2.5, hysteresis=0.01),
        "compressor": fb.top_k(0.3),
    }
    whole = flower(grid_of(), rounds=7, **settings)
    grid = grid_of()
    first = flower(grid, rounds=when, **settings)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, first.checkpoints[-1])
    found = load_checkpoint(path)
    assert found.state.sharpness == first.strategy.state.sharpness is not None
    assert found.state.step_size == first.strategy.state.step_size is not None
    states = export_states(grid.contexts)
    if clients == "new":
        grid = grid_of()
        import_states(grid.contexts, *states)
    grid.sent.clear()
    strategy = FedBias(**settings, minimum_clients=CLIENTS, seed=3)
    run = train(strategy, grid, START, 7, resume=found)
    assert run.points.tobytes() == whole.points[when + 1 :].tobytes()
    for mine, theirs in zip(run.checkpoints, whole.checkpoints[when + 1 :], strict=True):
        assert mine.state.sharpness == theirs.state.sharpness
        assert mine.state.step_size == theirs.state.step_size
    for mine, theirs in zip(run.records, whole.records[when + 1 :], strict=True):
        assert replace(mine, seconds=0) == replace(theirs, seconds=0)
    assert {k for k, _, _ in grid.queries()} == {3, 6}


def test_resumed_without_the_rule():
    """The optimizer's own step size is taken again. Kills: that of a reading long ago."""
    grid = grid_of()
    first = flower(grid, rounds=2, steering=RULE)
    assert first.records[2].step_size == first.strategy.state.step_size != 0.5
    for sharpness in (EACH, None):
        strategy = FedBias(STEP, sharpness=sharpness, minimum_clients=CLIENTS, seed=3)
        run = train(strategy, grid, START, 4, resume=first.checkpoints[-1])
        assert [record.step_size for record in run.records] == [0.5, 0.5]
        slope = np.mean([f.gradient(first.points[-1]) for f in OBJECTIVES], axis=0)
        np.testing.assert_allclose(run.points[0], first.points[-1] - 0.5 * slope, rtol=1e-12)


def test_a_record_is_plain_values():
    """As a line of JSON and back. Kills: numpy's numbers in a record."""
    run = flower(grid_of(), sharpness=fb.lanczos(2, 3, fraction=0.6), steering=RULE)
    for record in run.records:
        assert json.loads(json.dumps(record.to_dict())) == record.to_dict()
    assert run.records[1].sharpness_spread > 0 and run.records[1].sharpness_clients == 3


def test_a_run_that_stops_is_not_measured_any_more():
    """Kills: a measurement of a round that does not come."""
    run = flower(grid := grid_of(), stop=fb.until(samples=2 * sum(SIZES)), rounds=9)
    assert len(run.records) == 3 and {k for k, _, _ in grid.queries()} == {0}


def test_without_the_setting_nobody_is_asked():
    """Kills: messages that nobody wanted."""
    grid = grid_of()
    flower(grid, sharpness=None)
    assert grid.queries() == []


def test_an_app_of_another_kind(warned):
    """Its clients do not know query.hvp: Flower's error is a failure like others. Kills: an end."""

    def mod(message, context, call_next):
        if message.metadata.message_type == "query.hvp":
            raise ValueError("no query function registered")
        return call_next(message, context)

    grid = InlineGrid(app_of(OBJECTIVES, [mod]), CLIENTS)
    strategy = FedBias(STEP, sharpness=EACH, minimum_clients=CLIENTS, seed=3)
    run = train(strategy, grid, START, 2)
    assert run.points.tobytes() == loop(rounds=2).points.tobytes()
    assert "client 0: ValueError: no query function registered" in run.records[1].unmeasured


def test_a_record_of_no_use():
    """A product under another name, or a number. Kills: a reply whose record is not looked at,
    a server that ends because it counts what is no packet.
    """

    for record in ({"other": ConfigRecord({"product": b"x"})}, {"fedbias": ConfigRecord({"a": 1})}):

        def change(n, message, reply, record=record):
            return Message(RecordDict(record), reply_to=message)

        run = flower(grid_of(change={0: change}), rounds=1)
        assert run.records[1].unmeasured == "client 0: the record carries no packet 'product'"


def test_named_arrays_go_through():
    """Kills: a run that only works with one array."""
    strategy = FedBias(STEP, sharpness=EACH, minimum_clients=CLIENTS, seed=3)
    strategy.start(InlineGrid(app_of(OBJECTIVES), CLIENTS), named(START.copy(), "weights"), 3)
    assert strategy.state.point.tobytes() == loop(rounds=3).points[-1].tobytes()
