"""The ClientApp: what it says of itself, how it answers plans, and what it refuses."""

import json
import logging
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

import fedbias as fb
from clients import NumpyObjective, client_app
from clients.app import client_number
from clients.memory import load_ledger, save_ledger
from fedbias.client import respond
from fedbias.ledger import Ledger
from fedbias.problems import LogisticLoss, Squares
from fedbias.randomness import fingerprint
from fedbias.rounds import dense
from simulations import InlineGrid

PROBLEM = fb.LeastSquares.random(6, 4.0, seed=1, clients=4)
START = np.linspace(-1, 1, 6)
PLAN = fb.Plan(
    round=0,
    seed=5,
    client=0,
    acknowledged=-1,
    estimator=fb.local_steps(2, 0.1, momentum=0.5, inner=fb.minibatch("reshuffle")),
    batch_size=5,
    compressor=fb.top_k(0.34),
    feedback=fb.error_feedback(),
    point=START,
)
FULL = replace(PLAN, estimator=fb.exact(), batch_size=None)


def own(context):
    return PROBLEM.objectives[context.node_config["partition-id"]]


def node(number=0, **config):
    config = config or {"partition-id": number}
    named = {key.replace("_", "-"): value for key, value in config.items()}
    return Context(1, 2**63 - 9 + number, named, RecordDict(), {})


def ask(app, context, kind, record=None):
    content = {} if record is None else {"fedbias": ConfigRecord(dict(record))}
    return app(Message(RecordDict(content), context.node_id, kind), context)


def told(reply):
    assert not reply.has_error(), reply.error.reason
    return dict(reply.content["fedbias"])


def refusal(reply):
    """The reason, which is one sentence for a log: one line, no traceback."""
    assert reply.has_error() and reply.error.code == 2
    assert "\n" not in reply.error.reason and "Traceback" not in reply.error.reason
    return reply.error.reason


def remembered(context):
    """Everything in the context's state, as bytes."""
    kept = {}
    for name, record in context.state.array_records.items():
        for key, array in record.items():
            kept[name, key] = (array.dtype, tuple(array.shape), array.data)
        kept[name] = list(record)
    for name, record in context.state.config_records.items():
        kept[name] = dict(record)
    return kept


def same_ledger(one, other):
    for field in fields(Ledger):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("memory", "pending"):
            assert list(mine) == list(theirs)
            for name in mine:
                assert mine[name].dtype == theirs[name].dtype
                assert mine[name].shape == theirs[name].shape
                assert mine[name].tobytes() == theirs[name].tobytes()
        else:
            assert mine == theirs and type(mine) is type(theirs)


# Who it is ----------------------------------------------------------------------------------------


def test_hello_says_who_it_is():
    """Kills: a size that is the dim, capabilities that are not there, a fingerprint left out."""
    context = node(partition_id=3, num_partitions=4)
    header = json.loads(told(ask(client_app(own), context, "query.hello"))["header"])
    assert header == {
        "client": 3,
        "stable": True,
        "dim": 6,
        "size": 12,
        "capabilities": ["directional", "gradient", "hvp", "per_example_statistics"],
        "partitions": 4,
        "fingerprint": fingerprint(),
    }


def test_a_forward_only_client_says_so():
    """Kills: capabilities by type instead of by what was given."""
    app = client_app(lambda context: NumpyObjective(lambda x, b: 0.0, dim=3, size=1))
    header = json.loads(told(ask(app, node(0), "query.hello"))["header"])
    assert header["capabilities"] == [] and (header["dim"], header["size"]) == (3, 1)


@pytest.mark.parametrize(
    ("config", "number", "stable"),
    [
        ({"partition_id": 0}, 0, True),
        ({"partition_id": 7, "num_partitions": 9}, 7, True),
        ({"client_id": 4}, 4, True),
        ({"client_id": 0, "site": "a"}, 0, True),
        ({"client_id": 4, "partition_id": 7}, 7, True),
        ({"site": "a"}, 2**63 - 9, False),
    ],
)
def test_the_number_of_a_client(config, number, stable):
    """Kills: 0 taken for absent, client-id before partition-id, a node id taken for stable."""
    assert client_number(node(**config)) == (number, stable)
    header = json.loads(
        told(ask(client_app(lambda _: PROBLEM.objectives[0]), node(**config), "query.hello"))[
            "header"
        ]
    )
    assert (header["client"], header["stable"]) == (number, stable)


@pytest.mark.parametrize("key", ["partition-id", "client-id"])
@pytest.mark.parametrize("value", ["2", "two", -1, 1.0, True, ""])
def test_a_wrong_number_is_refused(key, value):
    """Kills: a check that is dropped, text that is converted, −1 that indexes from the end."""
    reason = refusal(
        ask(client_app(lambda _: PROBLEM.objectives[0]), node(**{key: value}), "query.hello")
    )
    assert reason == f"node config: {key} must be a whole number >= 0, not {value!r}"


# Plans --------------------------------------------------------------------------------------------


def header(record, **changes):
    return record | {"header": json.dumps(json.loads(record["header"]) | changes)}


GOOD = PLAN.to_record()
POINT = GOOD["point"]
FLIPPED = POINT[:20] + bytes([POINT[20] ^ 1]) + POINT[21:]
REFUSED = {
    "no record": (None, "no record 'fedbias': is the server's strategy fedbias's?"),
    "no header": ({"point": POINT}, "no JSON header"),
    "header is not JSON": (GOOD | {"header": "{"}, "no JSON header"),
    "header is a list": (GOOD | {"header": "[]"}, "header"),
    "unknown estimator": (header(GOOD, estimator="warp()"), "there is no setting 'warp'"),
    "unknown compressor": (header(GOOD, compressor="warp()"), "there is no setting 'warp'"),
    "unknown feedback": (header(GOOD, feedback="warp()"), "there is no setting 'warp'"),
    "code": (header(GOOD, compressor="__import__('os')"), "there is no setting '__import__'"),
    "impossible setting": (header(GOOD, compressor="top_k(fraction=2)"), "top_k: fraction must be"),
    "a test that measures nothing": (
        header(GOOD, measure="constant_batch(size=4)"),
        "constant_batch measures nothing on the clients",
    ),
    "a test for the server": (
        header(GOOD, measure="cross_client_test(eta=0.5, maximum=8)"),
        "cross_client_test measures nothing on the clients",
    ),
    "no round": (header(GOOD, round=None), "round"),
    "no point": ({"header": GOOD["header"]}, "no packet 'point'"),
    "point is text": (GOOD | {"point": "abc"}, "no packet 'point'"),
    "truncated": (GOOD | {"point": POINT[:-1]}, "takes 62 bytes, not 61"),
    "empty": (GOOD | {"point": b""}, "at least 14 bytes"),
    "altered": (GOOD | {"point": FLIPPED}, "checksum"),
    "foreign": (GOOD | {"point": b"PK" + POINT[2:]}, "not a packet of version 1"),
    "wrong dim": (GOOD | {"point": dense(np.zeros(7))}, "dim 7, not 6"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plan_is_refused_and_changes_nothing(case):
    """Kills: an exception that gets out, a memory that moves although nothing was answered."""
    record, says = REFUSED[case]
    app, context = client_app(own), node(0)
    told(ask(app, context, "train", GOOD))
    before = remembered(context)
    assert before["fedbias.ledger"]["pending_round"] == 0
    assert says in refusal(ask(app, context, "train", record))
    assert remembered(context) == before


def test_an_estimate_that_is_not_finite_is_refused():
    """Kills: NaN that travels, and NaN that stays in the error memory."""
    app, context = client_app(own), node(0)
    told(ask(app, context, "train", FULL.to_record()))
    before = remembered(context)
    payload = np.array([np.nan, *START[1:]]).tobytes()
    point = bytes(fb.Packet("identity", START.dtype, 6, None, (), payload))
    record = FULL.to_record() | {"point": point}
    assert "6 of 6 entries are NaN or infinite" in refusal(ask(app, context, "train", record))
    assert remembered(context) == before


def test_a_missing_capability_is_named():
    """Kills: an AttributeError instead of a sentence."""
    app = client_app(lambda context: NumpyObjective(lambda x, b: 0.0, dim=6, size=12))
    reason = refusal(ask(app, node(0), "train", FULL.to_record()))
    assert reason == "exact() needs gradient, which NumpyObjective does not offer"
    meta = replace(FULL, estimator=fb.meta(0.1)).to_record()
    assert "needs gradient and hvp" in refusal(ask(app, node(0), "train", meta))
    app = client_app(lambda _: NumpyObjective(lambda x, b: 0.0, lambda x, b: x, dim=6, size=12))
    test = fb.norm_test(eta=0.5, maximum=8)
    measured = replace(FULL, estimator=fb.minibatch(), measure=test, batch_size=4).to_record()
    assert refusal(ask(app, node(0), "train", measured)) == (
        f"{test} needs per_example_statistics, which NumpyObjective does not offer"
    )


def test_what_is_measured_travels():
    """The last of two local steps, through the message. Kills: a statistic that is not reported."""
    test = fb.local_norm_test(eta=0.5, maximum=8)
    plan = replace(PLAN, measure=test)
    header = json.loads(told(ask(client_app(own), node(0), "train", plan.to_record()))["header"])
    report, _ = respond(PROBLEM.objectives[0], plan, Ledger())
    assert header["statistic"] == report.statistic > 0 and header["computed"] == 2 * 5
    plain = json.loads(told(ask(client_app(own), node(0), "train", GOOD))["header"])
    assert plain | {"statistic": report.statistic} == header and plain["statistic"] is None


@pytest.mark.parametrize("failure", [ValueError, ImportError, OSError])
def test_an_objective_that_cannot_be_made_is_a_sentence(failure, caplog):
    """Kills: a client whose missing data ends the process instead of its own answer."""

    def make(context):
        raise failure("there is no /data/7")

    for kind in ("query.hello", "train", "evaluate"):
        record = {"header": GOOD["header"], "point": POINT}
        with caplog.at_level(logging.INFO, "flwr"):
            assert refusal(ask(client_app(make), node(0), kind, record)) == "there is no /data/7"
        assert f"refused {kind}" in caplog.messages[-1]


# Memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ledger",
    [
        Ledger(),
        Ledger(lost=True, applied=7),
        Ledger(
            applied=3,
            memory={"b": np.array([0.1, -0.0, 5e-324]), "a": np.float32([1, 2]) / 3},
            pending_round=2**40,
            pending={"seen": np.array([2**40], np.int64), "one": np.zeros((1,), np.float32)},
        ),
    ],
)
def test_a_ledger_there_and_back(ledger):
    """Kills: memory and pending swapped, a dtype that changes, a flag left out."""
    context = node(0)
    save_ledger(context, ledger)
    same_ledger(load_ledger(context), ledger)
    save_ledger(context, Ledger())
    same_ledger(load_ledger(context), Ledger())


def test_without_a_state_the_ledger_is_empty():
    """Kills: a KeyError in the first round."""
    same_ledger(load_ledger(node(0)), Ledger())


def test_the_app_is_the_core_with_a_context():
    """Rounds applied, lost, repeated and forgotten: the same records and ledgers as
    fedbias.client.respond. Kills: a ledger that is not saved, or saved before it is settled.
    """
    app, context, ledger = client_app(own), node(2), Ledger()
    for round, acknowledged in [(0, -1), (1, 0), (1, 0), (2, 0), (4, 2), (5, 3), (6, 5)]:
        plan = replace(PLAN, client=2, round=round, acknowledged=acknowledged)
        report, ledger = respond(PROBLEM.objectives[2], plan, ledger)
        assert told(ask(app, context, "train", plan.to_record())) == report.to_record()
        same_ledger(load_ledger(context), ledger)


def test_a_repeated_plan_has_identical_bytes():
    """Kills: an answer from pending memory, a second draw from the same stream."""
    app, context = client_app(own), node(0)
    first = told(ask(app, context, "train", GOOD))
    again = told(ask(app, context, "train", GOOD))
    assert again == first
    plan = replace(PLAN, round=1, acknowledged=0, point=START / 2).to_record()
    second, state = told(ask(app, context, "train", plan)), remembered(context)
    assert told(ask(app, context, "train", plan)) == second and remembered(context) == state
    assert second["packet"] != first["packet"]


def test_two_contexts_share_nothing():
    """Kills: a ledger kept in the app."""
    app, one, other = client_app(own), node(0), node(0)
    first = told(ask(app, one, "train", GOOD))
    told(ask(app, one, "train", replace(PLAN, round=1, acknowledged=0).to_record()))
    assert remembered(other) == {} and told(ask(app, other, "train", GOOD)) == first


# Evaluation ---------------------------------------------------------------------------------------


def test_evaluation_by_hand():
    """f(1, 1) of rows (1, 0), (0, 2) and targets 0 is (1 + 4)/4. Kills: a sum, a size left out."""
    app = client_app(lambda context: Squares(np.diag([1.0, 2.0]), np.zeros(2)))
    reply = ask(app, node(0), "evaluate", {"point": dense(np.ones(2))})
    assert dict(reply.content["metrics"]) == {"loss": 1.25, "num-examples": 2}


def test_evaluation_has_the_objectives_metrics():
    """Two of three examples lie on the right side. Kills: accuracy left out."""
    rows, labels = np.array([[1.0], [2.0], [-1.0]]), np.array([1.0, 1.0, 1.0])
    app = client_app(lambda context: LogisticLoss(rows, labels))
    metrics = dict(ask(app, node(0), "evaluate", {"point": dense(np.ones(1))}).content["metrics"])
    assert metrics["accuracy"] == 2 / 3 and metrics["num-examples"] == 3


def test_evaluation_takes_the_buffers():
    """Kills: evaluation with the statistics of whoever trained last."""

    class Shifted(Squares):
        shift = np.zeros(1)

        def __setattr__(self, name, value):
            Shifted.shift = value

        def loss(self, point, batch=None):
            return super().loss(point, batch) + float(Shifted.shift[0])

    app = client_app(lambda context: Shifted(np.eye(1), np.zeros(1)))
    record = {"point": dense(np.zeros(1)), "buffers": dense(np.array([0.75]))}
    assert ask(app, node(0), "evaluate", record).content["metrics"]["loss"] == 0.75


@pytest.mark.parametrize("point", [b"", POINT[:-1], FLIPPED, dense(np.zeros(5))])
def test_a_bad_point_is_not_evaluated(point):
    """Kills: an evaluation of another dimension."""
    refusal(ask(client_app(own), node(0), "evaluate", {"point": point}))


def test_evaluation_leaves_the_memory_alone():
    """Kills: a ledger that evaluation settles."""
    app, context = client_app(own), node(0)
    told(ask(app, context, "train", GOOD))
    before = remembered(context)
    assert not ask(app, context, "evaluate", {"point": POINT}).has_error()
    assert remembered(context) == before


# Together -----------------------------------------------------------------------------------------


def together(app, plans, contexts):
    messages = [
        Message(RecordDict({"fedbias": ConfigRecord(dict(record))}), c.node_id, "train")
        for record, c in zip(plans, contexts, strict=True)
    ]
    grid = InlineGrid(app, 0, cohort=True)
    grid.contexts = {context.node_id: context for context in contexts}
    return list(grid.send_and_receive(messages))


def plans_like(plan, count=4):
    return [replace(plan, client=client).to_record() for client in range(count)]


def vector(record):
    return fb.decode(fb.Packet.from_bytes(record["packet"]))


@pytest.mark.parametrize(
    "estimator",
    [
        fb.exact(),
        fb.clipped(0.1),
        fb.normalised(),
        fb.meta(0.1),
        fb.minibatch(),
        fb.local_steps(3, 0.1, momentum=0.5),
    ],
)
def test_together_is_one_by_one(estimator, monkeypatch):
    """The cohort sums rows in another order: 1e-12, and everything but the numbers exactly.
    Kills: gradients of another client, a loss of another client, a prefetched answer at the
    second local step, a memory that is not kept.
    """
    plan = replace(FULL, estimator=estimator, compressor=fb.identity())
    app, alone, joint = client_app(own), [node(c) for c in range(4)], [node(c) for c in range(4)]
    for round in range(2):
        now = replace(plan, round=round, acknowledged=round - 1)
        one_by_one = [
            told(ask(app, context, "train", record))
            for context, record in zip(alone, plans_like(now), strict=True)
        ]
        replies = [told(reply) for reply in together(app, plans_like(now), joint)]
        for mine, theirs in zip(replies, one_by_one, strict=True):
            np.testing.assert_allclose(vector(mine), vector(theirs), rtol=1e-12, atol=1e-13)
            heads = [json.loads(record["header"]) for record in (mine, theirs)]
            assert heads[0].pop("loss") == pytest.approx(heads[1].pop("loss"), rel=1e-12)
            assert heads[0] == heads[1] and len(mine["packet"]) == len(theirs["packet"])
        for mine, theirs in zip(joint, alone, strict=True):
            kept, expected = load_ledger(mine), load_ledger(theirs)
            assert (kept.applied, kept.pending_round, kept.lost) == (round - 1, round, False)
            assert kept.memory.keys() == expected.memory.keys()
            assert kept.pending.keys() == expected.pending.keys()


def test_together_really_is_one_call(monkeypatch):
    """Kills: a cohort that is made and then not used."""

    def no_gradient(*_):
        raise AssertionError("one by one")

    monkeypatch.setattr(Squares, "gradient", no_gradient)
    replies = together(client_app(own), plans_like(FULL), [node(c) for c in range(4)])
    assert [json.loads(told(reply)["header"])["client"] for reply in replies] == [0, 1, 2, 3]


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, estimator=fb.minibatch(), batch_size=4)])
def test_together_with_batches_is_one_by_one_bit_for_bit(plan):
    """Every client draws its own batches. Kills: a full gradient instead of a batch's."""
    app, alone, joint = client_app(own), [node(c) for c in range(4)], [node(c) for c in range(4)]
    records = plans_like(plan)
    expected = [
        told(ask(app, context, "train", record))
        for context, record in zip(alone, records, strict=True)
    ]
    assert [told(reply) for reply in together(app, records, joint)] == expected
    assert [remembered(context) for context in joint] == [remembered(context) for context in alone]


def test_together_falls_back_where_there_is_no_cohort():
    """Shares of 13, 12 and 12 rows cannot be stacked. Kills: a cohort that is not checked."""
    rows = np.arange(74.0).reshape(37, 2) / 37
    objectives = fb.LeastSquares(rows, rows.sum(1), clients=3).objectives
    app = client_app(lambda context: objectives[context.node_config["partition-id"]])
    plan = replace(FULL, point=np.ones(2), feedback=fb.no_feedback())
    contexts = [node(c) for c in range(3)]
    replies = [told(reply) for reply in together(app, plans_like(plan, 3), contexts)]
    for client, record in enumerate(replies):
        report, _ = respond(objectives[client], replace(plan, client=client), Ledger())
        assert record == report.to_record()


def test_mods_see_every_message():
    """Kills: answers together that pass a mod by."""
    seen = []

    def mod(message, context, call_next):
        seen.append(context.node_config["partition-id"])
        return call_next(message, context)

    replies = together(client_app(own, mods=[mod]), plans_like(FULL), [node(c) for c in range(4)])
    assert seen == [0, 1, 2, 3] and not any(reply.has_error() for reply in replies)


@pytest.mark.parametrize("bad", [0, 1, 3])
@pytest.mark.parametrize("how", ["plan", "objective", "finite"])
def test_one_failing_client_does_not_spoil_the_others(bad, how):
    """Kills: a round without answers because one client, the first too, cannot give one."""
    plans = plans_like(FULL)

    def make(context):
        client = context.node_config["partition-id"]
        if client == bad and how == "objective":
            raise ValueError("its data is gone")
        objective = own(context)
        if client == bad and how == "finite":
            return replace(objective, targets=objective.targets * np.inf)
        return objective

    if how == "plan":
        plans[bad] = plans[bad] | {"point": plans[bad]["point"][:-1]}
    contexts = [node(c) for c in range(4)]
    replies = together(client_app(make), plans, contexts)
    refusal(replies[bad])
    assert remembered(contexts[bad]) == {}
    for client in set(range(4)) - {bad}:
        report, _ = respond(PROBLEM.objectives[client], replace(FULL, client=client), Ledger())
        record = told(replies[client])
        np.testing.assert_allclose(vector(record), fb.decode(report.packet), rtol=1e-12)
        assert json.loads(record["header"])["client"] == client


# Corners ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [KeyError, TypeError, RuntimeError])
def test_any_exception_of_one_client_is_its_own(failure):
    """The engine turns an exception into that client's error; together it ends the whole run."""

    def make(context):
        if context.node_config["partition-id"] == 1:
            raise failure("path")
        return own(context)

    replies = together(client_app(make), plans_like(FULL), [node(c) for c in range(4)])
    assert [reply.has_error() for reply in replies] == [False, True, False, False]


def test_objectives_of_two_types_are_done_one_by_one():
    """One client without gradients refuses; the other three go on."""

    def make(context):
        forward_only = NumpyObjective(lambda x, b: 0.0, dim=6, size=12)
        return forward_only if context.node_config["partition-id"] == 1 else own(context)

    replies = together(client_app(make), plans_like(FULL), [node(c) for c in range(4)])
    assert [reply.has_error() for reply in replies] == [False, True, False, False]


def test_objectives_that_cannot_be_hashed():
    """A plain dataclass compares by value, so it has no hash; and it offers no cohort."""

    @dataclass
    class Bowl:
        dim: int = 6
        size: int = 12

        def loss(self, point, batch=None):
            return 0.5 * float(point @ point)

        def gradient(self, point, batch=None):
            return point

    replies = together(
        client_app(lambda context: Bowl()), plans_like(FULL), [node(c) for c in range(4)]
    )
    assert not any(reply.has_error() for reply in replies)


def test_a_module_that_vmap_cannot_do_is_done_one_by_one():
    """Control flow that depends on data is legal torch, and exact one by one."""
    import torch
    from torch import nn
    from torch.nn.functional import mse_loss

    from clients import TorchObjective

    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (2 if x.sum() > 0 else 1)

    module = Branching(6, 1)
    data = torch.ones(4, 6), torch.zeros(4, 1)
    app = client_app(lambda context: TorchObjective(module, mse_loss, data))
    plan = replace(FULL, point=np.ones(7, np.float32))
    replies = together(app, plans_like(plan), [node(c) for c in range(4)])
    assert not any(reply.has_error() for reply in replies)


def test_an_evaluation_without_a_point_is_refused():
    refusal(ask(client_app(own), node(0), "evaluate", {"x": 1}))


def test_a_sparse_point_of_another_dim_allocates_nothing():
    """50 bytes that stand for 2^24 entries (2^32 − 1 would be 16 GB)."""
    import tracemalloc

    evil = fb.Packet("random_k", np.dtype("f4"), 2**24, None, (1, 7), bytes(4))
    tracemalloc.start()
    try:
        refusal(ask(client_app(own), node(0), "train", GOOD | {"point": bytes(evil)}))
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
