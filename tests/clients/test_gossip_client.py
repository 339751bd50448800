"""The ClientApp of a client that owns its model: its steps, what it shows, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

import fedbias as fb
from clients import NumpyObjective, client_app
from clients.memory import load_ledger
from fedbias.gossip import GossipPlan, ModelQuery, respond
from fedbias.gossip.client import MODEL
from fedbias.ledger import LOST_MODEL, NEVER, Ledger
from fedbias.rounds import dense, dense_vector
from tests.tools.exactly_once import bits

PROBLEM = fb.LeastSquares.random(6, 4.0, seed=1, clients=4)
START = np.linspace(-1, 1, 6)
PLAN = GossipPlan(
    round=0,
    seed=5,
    client=0,
    acknowledged=NEVER,
    estimator=fb.local_steps(2, 0.1, momentum=0.5, inner=fb.minibatch("reshuffle")),
    batch_size=5,
    step_size=0.5,
    mixing=0.75,
    compressor=fb.top_k(0.34),
    feedback=fb.ef21(),
    model=START,
)
PARTNER = fb.identity().encode(START * 3)


def own(context):
    return PROBLEM.objectives[context.node_config["partition-id"]]


APP = client_app(own)


def node(number=0):
    return Context(1, 7, {"partition-id": number}, RecordDict(), {})


def ask(context, kind, record, app=APP):
    content = RecordDict({"fedbias": ConfigRecord(dict(record))})
    return app(Message(content, context.node_id, kind), context)


def told(reply):
    assert not reply.has_error(), reply.error.reason
    return dict(reply.content["fedbias"])


def step(context, plan):
    return told(ask(context, "train.gossip", plan.to_record()))


def shown(context, query):
    record = told(ask(context, "query.model", query.to_record()))
    assert set(record) == {"model"}
    return dense_vector(record, "model")


def refusal(reply, code=2):
    """The reason, which is one sentence for a log: one line, no traceback."""
    assert reply.has_error() and reply.error.code == code
    assert "\n" not in reply.error.reason and "Traceback" not in reply.error.reason
    return reply.error.reason


def remembered(context):
    """All that the context holds, as bytes."""
    ledger = load_ledger(context)
    counted = (ledger.applied, ledger.pending_round, ledger.lost)
    return counted, bits(ledger.memory), bits(ledger.pending), sorted(context.state)


def later(number, acknowledged, **changes):
    """A plan of this round, for who has a model."""
    return replace(PLAN, round=number, acknowledged=acknowledged, model=None, **changes)


def test_the_app_is_the_core_with_a_context():
    """Five rounds: a lost reply, a meeting, a repeated plan, a meeting that is told late.

    Kills: a ledger that is not kept, or kept before the fate of a step is known.
    """
    context, ledger = node(), Ledger()
    plans = [
        PLAN,
        replace(PLAN, round=1),
        *[later(2, 1, partner=PARTNER)] * 2,
        later(3, 1, partner=PARTNER),
        later(4, 3),
    ]
    for plan in plans:
        report, ledger = respond(own(context), plan, ledger)
        assert step(context, plan) == report.to_record()
        kept = load_ledger(context)
        assert (kept.applied, kept.pending_round) == (ledger.applied, ledger.pending_round)
        assert bits(kept.memory) == bits(ledger.memory)
        assert bits(kept.pending) == bits(ledger.pending)
    assert {"gossip.model", "gossip.sent", "local_steps.momentum", "batches.seen"} <= set(
        ledger.pending
    )


QUERIES = {
    "its reply was lost": (ModelQuery(0, NEVER, 0.75), lambda before, _: before),
    "it met nobody": (ModelQuery(0, 0, 0.75), lambda _, after: after.memory[MODEL]),
    "it met": (
        ModelQuery(0, 0, 0.75, PARTNER),
        lambda _, after: after.memory[MODEL] + 0.75 * (START * 3 - after.memory["gossip.sent"]) / 2,
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_what_it_shows_is_where_its_next_step_begins(name):
    """And a query changes nothing: the next plan is answered as if there had been none.

    Kills: a query that commits a step, that forgets the meeting, or one answered from memory that
    is not settled.
    """
    query, expected = QUERIES[name]
    context, other = node(), node()
    for each in (context, other):
        step(each, PLAN)
    done = replace(load_ledger(context), memory=load_ledger(context).pending)
    before = remembered(context)
    for _ in range(2):
        model = shown(context, query)
        np.testing.assert_allclose(model, expected(START, done), rtol=1e-14)
        assert remembered(context) == before
    plan = replace(later(1, query.acknowledged), partner=query.partner)
    plan = plan if query.acknowledged == 0 else replace(PLAN, round=1)
    assert step(context, plan) == step(other, plan)
    assert load_ledger(context).memory[MODEL].tobytes() == model.tobytes()


@pytest.mark.parametrize("kind", ["train.gossip", "query.model"])
@pytest.mark.parametrize("before", [[], [PLAN], [PLAN, later(1, 0)]])
def test_a_model_that_is_gone(kind, before):
    """It never had one, or the server knows of steps that it does not: a code of its own.

    Kills: a loss that looks like any other refusal, and one that changes what it has.
    """
    context = node()
    for plan in before:
        step(context, plan)
    kept = remembered(context)
    record = (later(9, 8) if kind == "train.gossip" else ModelQuery(0, 8, 1.0)).to_record()
    reply = ask(context, kind, record)
    assert refusal(reply, LOST_MODEL).startswith("this client has no model")
    assert LOST_MODEL > 100  # none of Flower's
    assert remembered(context) == kept


def test_it_begins_where_it_is_told_to():
    """Whatever it had before. Kills: an old model, momentum or place in the data that survives."""
    context, fresh = node(), node()
    step(context, PLAN)
    step(context, later(1, 0))
    again = replace(PLAN, round=9, model=START * 2)
    assert step(context, again) == step(fresh, again)
    assert remembered(context) == remembered(fresh)


def header(record, **changes):
    return record | {"header": json.dumps(json.loads(record["header"]) | changes)}


INFINITE = np.full(6, np.inf).tobytes()
STEP, QUERY = PLAN.to_record(), ModelQuery(0, 0, 1.0, PARTNER).to_record()
REFUSED = {
    "another client's step": ("train.gossip", header(STEP, client=1), "is for client 1, this is"),
    "another client's query": ("query.model", header(QUERY, client=1), "is for client 1, this is"),
    "no plan": ("train.gossip", {"header": "}"}, "no JSON header"),
    "no query": ("query.model", {"header": "}"}, "no JSON header"),
    "the star's plan": ("train.gossip", QUERY, "the header must have the fields"),
    "a plan for a query": ("query.model", STEP, "the header must have the fields"),
    "a wrong estimator": ("train.gossip", header(STEP, estimator="sign()"), "sign"),
    "a wrong dim": ("train.gossip", STEP | {"model": dense(np.zeros(5))}, "has dim 5, not 6"),
    "a partner of another dim": (
        "query.model",
        QUERY | {"partner": bytes(fb.identity().encode(np.zeros(5)))},
        "expected a vector of dim 6",
    ),
    "a broken partner": ("query.model", QUERY | {"partner": b"no"}, "at least 14 bytes"),
    "a model that is not finite": (
        "train.gossip",
        STEP | {"model": bytes(fb.Packet("identity", START.dtype, 6, None, (), INFINITE))},
        "NaN or infinite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(case):
    """Kills: each check that is dropped, an exception instead of a sentence, a memory that moves,
    a refusal that the server takes for a lost model.
    """
    kind, record, reason = REFUSED[case]
    context = node()
    step(context, PLAN)
    kept = remembered(context)
    assert reason in refusal(ask(context, kind, record))
    assert remembered(context) == kept


@pytest.mark.parametrize("kind", ["train.gossip", "query.model"])
def test_a_message_without_our_record(kind):
    """Kills: a KeyError."""
    context = node()
    content = RecordDict({"fedbias": ArrayRecord({"w": Array(START)})})
    reply = APP(Message(content, context.node_id, kind), context)
    assert "no record 'fedbias'" in refusal(reply)


def test_a_client_that_cannot_do_it():
    """Kills: a capability that is not looked at, an objective whose buffers nobody averages."""
    forward = client_app(lambda context: NumpyObjective(lambda x, b: 0.0, dim=6, size=9))
    plan = replace(PLAN, estimator=fb.exact(), batch_size=None)
    assert "gradient" in refusal(ask(node(), "train.gossip", plan.to_record(), forward))
    normed = own(node())
    buffered = type("Buffered", (type(normed),), {"buffers": np.zeros(2)})
    objective = buffered(normed.features, normed.targets)
    app = client_app(lambda context: objective)
    assert "use GroupNorm" in refusal(ask(node(), "train.gossip", plan.to_record(), app))


def test_mods_go_around_it():
    """Kills: messages that pass by a user's mods."""
    seen = []

    def mod(message, context, call_next):
        seen.append(message.metadata.message_type)
        return call_next(message, context)

    context, app = node(), client_app(own, [mod])
    told(ask(context, "train.gossip", STEP, app))
    told(ask(context, "query.model", QUERY, app))
    assert seen == ["train.gossip", "query.model"]
