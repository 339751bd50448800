"""A client that keeps the model itself, inside Flower's context, and is sent steps alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import config_record_from_proto, config_record_to_proto

import fedbias as fb
from clients import client_app
from clients.memory import load_ledger
from clients.replica import plan_of
from fedbias.client import respond
from fedbias.directions import combination
from fedbias.ledger import LOST_MODEL, NEVER, Ledger
from fedbias.replica import Replica, Step, followed, steps_record, whole_record
from tests.tools.uneven import uneven

DIM = 12
OWN = fb.ForwardOnly(uneven(9, dim=DIM)[0])
ODD = np.linspace(-1, 1, DIM) / 3
HEAVY = fb.heavy_ball(0.5, 0.25)
START = Replica(3, ODD, {"velocity": ODD * 7})
PLAN = fb.Plan(
    round=3,
    seed=5,
    client=0,
    acknowledged=NEVER,
    estimator=fb.two_point(2, 1e-3),
    batch_size=4,
    compressor=fb.identity(),
    feedback=fb.no_feedback(),
    point=ODD,
)


def step(round, optimizer=HEAVY, dim=DIM):
    packets = [combination(seed, np.float32([0.5, -2.0]), dim, float) for seed in (round, 99)]
    return Step(round, optimizer, (1.0, 0.3), tuple(packets))


def node(**config):
    return Context(1, 77, {"partition-id": 0, **config}, RecordDict(), {})


def record_of(plan, how):
    """A plan's header beside what it says of the model, as it comes out of Flower's messages."""
    packed = config_record_to_proto(ConfigRecord({"header": plan.header(), **how}))
    return dict(config_record_from_proto(packed))


def whole(replica=START, **changes):
    plan = replace(PLAN, round=replica.round, **changes)
    return record_of(plan, whole_record(replica))


def end(round):
    """Where step(3), step(4), … lead."""
    return followed(START, map(step, range(START.round, round)), round)


def steps(since, round, *taken, now=None, **changes):
    plan = replace(PLAN, round=round, **changes)
    return record_of(plan, steps_record(since, now or end(round), taken))


def ask(context, record, app=None):
    app = app or client_app(lambda _: OWN)
    return app(Message(RecordDict({"fedbias": ConfigRecord(record)}), 77, "train"), context)


def told(reply):
    assert not reply.has_error(), reply.error.reason
    return dict(reply.content["fedbias"])


def refusal(reply, code):
    assert reply.has_error() and reply.error.code == code
    assert "\n" not in reply.error.reason and "Traceback" not in reply.error.reason
    return reply.error.reason


def state_of(context):
    """Everything in the context's state, as bytes."""
    arrays = {
        (name, key): (array.dtype, array.data)
        for name, record in context.state.array_records.items()
        for key, array in record.items()
    }
    return arrays | {name: dict(r) for name, r in context.state.config_records.items()}


def same(one, other):
    assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


# The copy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        fb.gradient_descent(0.1),
        HEAVY,
        fb.polyak(0.1, 0.5),
        fb.nesterov(0.1, 0.5),
        fb.adagrad(0.1),
        fb.adagrad_norm(0.1),
        fb.adam(0.1),
    ],
    ids=lambda o: o.name,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_copy_lives_in_the_context(optimizer, dtype):
    """The model at first, then steps, each message a new process: the plans' points are the core's.

    Kills: a state of the optimizer that is not kept, a dtype that changes, a copy that is not
    moved.
    """
    context, replica = node(), Replica(0, ODD.astype(dtype))
    same(plan_of(whole(replica), context).point, replica.point)
    for round in range(4):
        packets = tuple(replace(packet, dtype=np.dtype(dtype)) for packet in step(round).packets)
        taken = replace(step(round, optimizer), packets=packets)
        expected = followed(replica, [taken], round + 1)
        plan = plan_of(steps(round, round + 1, taken, now=expected), context)
        same(plan.point, expected.point)
        assert plan.round == round + 1 and not np.array_equal(plan.point, replica.point)
        replica = expected


def test_a_client_with_steps_answers_as_one_with_the_model():
    """Kills: a copy that the objective, the estimator or the ledger sees otherwise."""
    one, other, replica = node(), node(), START
    told(ask(one, whole()))
    told(ask(other, PLAN.to_record()))
    for round in (3, 4, 5):
        replica = followed(replica, [step(round)], round + 1)
        plan = replace(PLAN, round=round + 1, acknowledged=round, point=replica.point)
        with_steps = told(ask(one, steps(round, round + 1, step(round), acknowledged=round)))
        assert with_steps == told(ask(other, plan.to_record()))
        report, _ = respond(OWN, plan, Ledger(applied=round))
        assert with_steps == report.to_record()
    assert load_ledger(one) == load_ledger(other)


def test_a_repeated_plan_has_identical_bytes():
    """Kills: a model that is moved twice by one step."""
    context = node()
    told(ask(context, whole()))
    record = steps(3, 4, step(3))
    first, kept = told(ask(context, record)), state_of(context)
    assert told(ask(context, record)) == first and state_of(context) == kept


def test_who_missed_rounds_catches_up_and_who_did_not_is_not_moved_again():
    """One record for all. Kills: a client that takes a step twice, or one too few."""
    late, punctual = node(), node()
    for context in (late, punctual):
        told(ask(context, whole()))
    told(ask(punctual, steps(3, 4, step(3))))
    record = steps(3, 6, step(3), step(4), step(5))
    assert told(ask(late, record)) == told(ask(punctual, record))
    expected = followed(START, [step(3), step(4), step(5)], 6)
    for context in (late, punctual):
        same(plan_of(steps(6, 6), context).point, expected.point)


def test_the_model_replaces_the_copy():
    """Of an earlier round too, where the server went on from a checkpoint. Kills: steps that are
    taken from another model than the server's.
    """
    context = node()
    told(ask(context, whole(Replica(9, ODD * 2, {"velocity": ODD}))))
    told(ask(context, whole()))
    plan = plan_of(steps(3, 4, step(3)), context)
    same(plan.point, followed(START, [step(3)], 4).point)
    told(ask(context, whole(Replica(5, ODD))))  # of an optimizer without a state
    assert list(context.state["fedbias.model"]) == ["point"]


def test_two_contexts_share_nothing():
    context, other = node(), node()
    told(ask(context, whole()))
    refusal(ask(other, steps(3, 4, step(3))), LOST_MODEL)


def test_a_plan_with_a_point_leaves_no_copy():
    """Kills: a second model in the memory of every client."""
    context = node()
    told(ask(context, PLAN.to_record()))
    assert not any(name in context.state for name in ("fedbias.model", "fedbias.round"))


# What a client cannot follow ----------------------------------------------------------------------


def test_a_client_without_the_model_says_so():
    """With its own code, and nothing moves. Kills: a code that is any refusal's, a KeyError, a
    late message after which the copy is another than it says.
    """
    assert LOST_MODEL == 1001
    says = "this client does not have the model that the steps go on from"
    context = node()
    assert refusal(ask(context, steps(3, 4, step(3))), LOST_MODEL) == says
    assert state_of(context) == {}
    told(ask(context, whole()))
    told(ask(context, steps(3, 6, step(3), step(4), step(5))))
    before = state_of(context)
    assert refusal(ask(context, steps(7, 8, step(7))), LOST_MODEL) == says
    assert refusal(ask(context, steps(3, 5, step(3), step(4))), LOST_MODEL) == says
    assert state_of(context) == before


def test_a_copy_that_is_another_model():
    """An ulp beside it: the client says so, the copy stays, and the model puts it right.

    Kills: a copy that goes on beside the server's model.
    """
    context, clean = node(), node()
    for each in (context, clean):
        told(ask(each, whole()))
    kept = context.state["fedbias.model"]
    kept["point"] = Array(np.nextafter(kept["point"].numpy(), 9))
    before = state_of(context)
    assert refusal(ask(context, steps(3, 4, step(3))), LOST_MODEL) == (
        "the steps do not lead to the server's model here: other numbers"
    )
    assert state_of(context) == before
    assert told(ask(context, whole(end(4)))) == told(ask(clean, steps(3, 4, step(3))))
    assert state_of(context) == state_of(clean)


def spoilt(record, **changes):
    return record | {"steps": json.dumps(json.loads(record["steps"]) | changes)}


GOOD = steps(3, 4, step(3))
MALFORMED = {
    "no JSON": (GOOD | {"steps": "{"}, "no JSON header"),
    "an infinite round": (
        GOOD | {"steps": GOOD["steps"].replace("[[3", "[[Infinity")},
        "steps cannot be",
    ),
    "an optimizer that is none": (
        spoilt(GOOD, steps=[[3, "exact()", [1.0, 1.0]]]),
        "'exact()' does not fit here",
    ),
    "an optimizer with another state": (
        spoilt(GOOD, steps=[[3, "adam()", [1.0, 1.0]]]),
        "no steps of this model: 'count'",
    ),
    "a weight that is NaN": (
        spoilt(GOOD, steps=[[3, repr(HEAVY), [1.0, float("nan")]]]),
        "steps cannot be",
    ),
    "a packet too few": (GOOD | {"packets": GOOD["packets"][:1]}, "one packet for each weight"),
    "packets of numbers": (GOOD | {"packets": [1, 2]}, "no steps' packets"),
    "another dim": (steps(3, 4, step(3, dim=13)), "expected a vector of dim 12"),
    "a whole of another dim": (whole(Replica(3, np.zeros(5))), "dim 5, not 12"),
    "a whole without a model": (
        {key: part for key, part in whole().items() if key != "point"},
        "no packet 'point'",
    ),
    "nothing of the model at all": ({"header": GOOD["header"]}, "no packet 'point'"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_record_is_answered_with_a_sentence(case):
    """And the next plan is answered as if it had not come. Kills: a client that dies of it."""
    record, says = MALFORMED[case]
    context, clean = node(), node()
    for each in (context, clean):
        told(ask(each, whole()))
    assert says in refusal(ask(context, record), 2)
    after = whole(replace(START, round=4)) if "whole of" in case else GOOD
    assert told(ask(context, after)) == told(ask(clean, after))


def test_a_header_that_is_none_moves_the_copy_to_where_the_server_is():
    """The model came, the plan did not: the same plan, sent well, is answered. Kills: a copy that
    takes the step again.
    """
    context, clean = node(), node()
    for each in (context, clean):
        told(ask(each, whole()))
    refusal(ask(context, GOOD | {"header": "{"}), 2)
    assert told(ask(context, GOOD)) == told(ask(clean, GOOD))


def test_a_plan_for_somebody_else_is_refused():
    """Kills: a number that is not looked at where the model comes as steps."""
    context = node()
    told(ask(context, whole()))
    wrong = steps(3, 4, step(3), client=1)
    assert refusal(ask(context, wrong), 2) == "the plan is for client 1, this is client 0"
    told(ask(context, GOOD))


def test_a_model_that_does_not_fit_the_estimator_is_refused_as_ever():
    """An estimator that needs gradients. Kills: a refusal with the lost model's code."""
    context = node()
    record = whole(estimator=fb.exact(), batch_size=None)
    assert (
        refusal(ask(context, record), 2)
        == "exact() needs gradient, which ForwardOnly does not offer"
    )
