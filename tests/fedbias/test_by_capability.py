"""One estimator per capability: who takes what, what both sides say of it, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.client import respond
from fedbias.directions import combination
from fedbias.estimators import as_estimator
from fedbias.ledger import Ledger
from fedbias.objectives import ForwardOnly
from fedbias.rounds import Plan, Report
from fedbias.server import apply, plan_for
from fedbias.state import ServerState
from tests.tools.kinds import able

PROBLEM = fb.LeastSquares.random(6, 10, 0, clients=3)
START = np.linspace(-1, 2, 6)
DESCENT = fb.gradient_descent(0.5)
MIXED = {
    "gradient": fb.minibatch(),
    "directional": fb.forward_gradient(3),
    "loss": fb.two_point(5, 1e-4),
}
CLIENTS = able(PROBLEM.objectives, "gdl")  # who has gradients, who slopes, who its loss alone


def plan(estimator, client=0, **changes):
    fields = {"batch_size": None, "compressor": fb.identity(), "feedback": fb.no_feedback()}
    return Plan(3, 0, client, -1, as_estimator(estimator), point=START, **(fields | changes))


def answer(objective, estimator, **changes):
    return respond(objective, plan(estimator, **changes), Ledger())[0]


def test_who_takes_what():
    """The first that a client can, in the order gradient, directional, loss, whatever the order in
    which they are written. Kills: the last one, an order of the mapping's.
    """
    backwards = dict(reversed(MIXED.items()))
    for mapping in (MIXED, backwards):
        reports = [answer(client, mapping) for client in CLIENTS]
        assert [report.kind for report in reports] == ["gradient", "directional", "loss"]
        assert [report.packet.codec for report in reports] == ["identity", *["directions"] * 2]
        assert [report.packet.fields[1:] for report in reports] == [(), (3,), (5,)]
    without = {"loss": MIXED["loss"], "gradient": MIXED["gradient"]}
    assert [answer(c, without).kind for c in CLIENTS] == ["gradient", "loss", "loss"]
    assert [answer(c, {"loss": MIXED["loss"]}).kind for c in CLIENTS] == ["loss"] * 3
    assert [answer(c, MIXED["loss"]).kind for c in CLIENTS] == [""] * 3


def test_the_estimate_is_that_of_the_kind_alone():
    """Bit for bit. Kills: a kind that computes another one's estimate."""
    for client, (kind, estimator) in zip(CLIENTS, MIXED.items(), strict=True):
        mixed, alone = answer(client, MIXED), answer(client, estimator)
        assert replace(mixed, kind="") == alone and mixed.kind == kind


def test_hvp_comes_with_gradient():
    """meta under "gradient": who has no Hessian products looks further. Kills: a client that is
    given what it cannot compute."""

    class NoCurvature(ForwardOnly):
        def gradient(self, point, batch=None):
            return self._objective.gradient(point, batch)

    mapping = {"gradient": fb.meta(0.1), "loss": fb.two_point(2, 1e-4)}
    whole = PROBLEM.objectives[0]
    kinds = [answer(f, mapping).kind for f in (whole, NoCurvature(whole), ForwardOnly(whole))]
    assert kinds == ["gradient", "loss", "loss"]


def test_a_round_by_hand():
    """x_1 = x_0 − ½·(∇f_0 + the rebuilt estimates of the other two)/3, bit for bit, in the loop."""
    mapping = MIXED | {"gradient": fb.exact()}
    history = fb.run(CLIENTS, DESCENT, START, 1, estimator=mapping)
    total = PROBLEM.objectives[0].gradient(START)
    for client in (1, 2):
        asked = replace(plan(mapping, client), round=0)
        report = respond(CLIENTS[client], asked, Ledger())[0]
        total = total + fb.decode(fb.Packet.from_bytes(bytes(report.packet)))
    assert history.points[1].tobytes() == (START - 0.5 * (total / 3)).tobytes()
    sizes = [14 + 6 * 8, 26 + 4 * 3, 26 + 4 * 5]
    assert history.wire_bits.tolist() == [8 * sum(sizes)]
    assert history.payload_bits.tolist() == [6 * 64 + 32 * 3 + 32 * 5]


def test_samples_and_passes_of_each_kind():
    """3·7 of meta, 7 of the others; passes over them: 3, 4 and 6. Kills: one kind's count for all,
    b for a client that uses all its data."""
    mapping = MIXED | {"gradient": fb.meta(0.1)}
    (outcome,) = fb.run(CLIENTS, DESCENT, START, 1, estimator=mapping, batch_size=7).outcomes
    assert outcome.samples == 3 * 7 + 7 + 7 and outcome.computed == 3 * 7 + 4 * 7 + 6 * 7
    mapping = MIXED | {"gradient": fb.exact()}
    (outcome,) = fb.run(CLIENTS, DESCENT, START, 1, estimator=mapping, batch_size=7).outcomes
    assert outcome.samples == 12 + 7 + 7 and outcome.computed == 12 + 4 * 7 + 6 * 7


def test_the_plan_says_it_in_words():
    """The mapping's text through the header, and the same answer. Kills: a mapping that is lost."""
    asked = plan(MIXED)
    text = (
        "by_capability(gradient=minibatch(), directional=forward_gradient(directions=3), "
        "loss=two_point(directions=5, radius=0.0001))"
    )
    assert repr(asked.estimator) == text and f'"{text}"' in asked.header()
    back = Plan.from_record(asked.to_record())
    assert back.estimator == asked.estimator == fb.by_capability(**MIXED)
    for client in CLIENTS:
        report = respond(client, back, Ledger())[0]
        assert report == respond(client, asked, Ledger())[0]
        assert Report.from_record(report.to_record()) == report


@pytest.mark.parametrize(
    ("estimator", "sentence"),
    [
        (fb.exact(), "exact() needs gradient, which ForwardOnly does not offer"),
        (fb.forward_gradient(2), "forward_gradient(directions=2) needs directional, which Forw"),
        (
            {"gradient": fb.exact(), "directional": fb.forward_gradient(2)},
            "ForwardOnly offers its loss alone, and the server asks for gradient or directional: "
            "name an estimator for loss",
        ),
    ],
)
def test_what_a_forward_only_client_cannot_do(estimator, sentence):
    """The run ends with the sentence. Kills: an estimate made of nothing."""
    with pytest.raises(fb.MissingCapability) as caught:
        fb.run(CLIENTS, DESCENT, START, 1, estimator=estimator)
    assert sentence in str(caught.value)


def test_what_it_offers_is_said():
    """With the estimators that were asked for. Kills: a sentence about another client."""
    sentence = "ForwardOnly offers directional, and the server asks for gradient: name an estimator"
    with pytest.raises(fb.MissingCapability, match=sentence):
        answer(CLIENTS[1], {"gradient": fb.exact()})


WRONG = [
    ({}, "by_capability: name an estimator for one of gradient, directional, loss"),
    (
        {"hvp": fb.meta(0.1)},
        "estimator: there is no capability 'hvp'; known: gradient, directional,",
    ),
    ({3: fb.exact(), "hvp": fb.exact()}, "estimator: there is no capability 3; known: gradient,"),
    ({"loss": fb.exact()}, "by_capability: loss=exact() needs gradient, which clients with loss "),
    ({"loss": fb.forward_gradient(2)}, "loss=forward_gradient(directions=2) needs directional, wh"),
    ({"directional": fb.minibatch()}, "directional=minibatch() needs gradient, which clients with"),
    ({"directional": fb.meta(0.1)}, "needs gradient and hvp, which clients with directional alone"),
    ({"gradient": fb.forward_gradient(2)}, "gradient=forward_gradient(directions=2) needs directi"),
    ({"loss": fb.clipped(1.0)}, "loss=clipped(radius=1.0) needs gradient"),
    ({"gradient": "exact()"}, "gradient must be like two_point(directions=8, radius=0.001), not"),
    ({"loss": fb.identity()}, "by_capability: loss must be like two_point(directions=8, radius="),
    ({"loss": fb.by_capability(loss=fb.two_point(1, 1))}, "loss must be a single estimator"),
    ("exact()", "algorithm: estimator must be like exact(), not 'exact()'"),
    (None, "algorithm: estimator must be like exact(), not None"),
]


@pytest.mark.parametrize(("estimator", "sentence"), WRONG, ids=range(len(WRONG)))
def test_impossible_mappings(estimator, sentence):
    """Before any round. Kills: a mapping that fails in the middle of a run, at one client."""
    with pytest.raises(ValueError) as caught:
        fb.run(CLIENTS, DESCENT, START, 1, estimator=estimator)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: fb.clipped(1.0, inner),
        lambda inner: fb.normalised(inner),
        lambda inner: fb.local_steps(2, 0.1, inner=inner),
    ],
)
def test_transforms_go_inside(wrap):
    """Around it they would hide the kinds, and count the samples of one for all."""
    with pytest.raises(ValueError, match=r"write it inside by_capability\(…\), once for each kind"):
        wrap(fb.by_capability(**MIXED))
    inside = {"gradient": wrap(fb.minibatch()), "loss": wrap(fb.two_point(2, 1e-4))}
    history = fb.run(CLIENTS, DESCENT, START, 2, estimator=inside, batch_size=4)
    assert [outcome.applied for outcome in history.outcomes] == [(0, 1, 2)] * 2


def test_batch_tests_are_for_plain_batches():
    """Kills: a statistic that nobody reports."""
    with pytest.raises(ValueError, match="norm_test measures the examples of a plain batch, not"):
        fb.run(CLIENTS, DESCENT, START, 1, estimator=MIXED, batch_size=fb.norm_test(0.5, 64))
    compared = fb.cross_client_test(eta=0.5, maximum=64)
    history = fb.run(CLIENTS, DESCENT, START, 2, estimator=MIXED, batch_size=compared)
    assert history.outcomes[0].wanted > 0
    exact = {"gradient": fb.exact(), "loss": fb.clipped(1.0, fb.two_point(1, 0.1))}
    fb.run(CLIENTS, DESCENT, START, 1, estimator=exact, batch_size=4)  # one of them draws
    with pytest.raises(ValueError, match="has no meaning for by_capability"):
        fb.run(CLIENTS, DESCENT, START, 1, estimator={"gradient": fb.exact()}, batch_size=4)


def test_measuring_the_bias_asks_who_has_gradients():
    """Against its exact gradient; forward-only clients say nothing. Kills: a crash."""
    mapping = MIXED | {"gradient": fb.exact()}
    history = fb.run(CLIENTS, DESCENT, START, 1, estimator=mapping, measure_bias=1)
    (outcome,) = history.outcomes
    gradient = PROBLEM.objectives[0].gradient(START)
    assert outcome.measured.bias_square == 0
    assert outcome.measured.gradient_square == pytest.approx(gradient @ gradient, rel=1e-14)


# What a server refuses ----------------------------------------------------------------------------

ALGORITHM = Algorithm(DESCENT, as_estimator(MIXED))
STATE = ServerState(START)


def honest(buffers=None):
    state = replace(STATE, buffers=buffers)
    reports = [
        respond(client, plan_for(ALGORITHM, state, number), Ledger())[0]
        for number, client in enumerate(CLIENTS)
    ]
    return state, reports


def many(count, dim=6):
    return combination(5, np.ones(count, np.float32), dim, np.float64)


LIES = {
    "another kind": ({"kind": "hvp"}, "nobody was asked for an estimate of the kind 'hvp'"),
    "no kind": ({"kind": ""}, "nobody was asked for an estimate of the kind ''"),
    "a kind without end": ({"kind": "x" * 99}, f"an estimate of the kind '{'x' * 60}'"),
    "too many directions": ({"packet": many(6)}, "names 6 directions, not at most 5"),
    "more than its kind has": (
        {"packet": many(4), "kind": "directional"},
        "names 4 directions, not at most 3",
    ),
    "directions for a vector": (
        {"packet": many(1), "kind": "gradient"},
        "names 1 directions, not at most 0",
    ),
    "of another length": ({"packet": many(5, dim=7)}, "expected a vector of dim 6"),
}


@pytest.mark.parametrize("lie", LIES)
def test_refused_and_the_round_goes_on(lie):
    """Before anything is rebuilt. Kills: a report of a few bytes that costs the server minutes."""
    changes, sentence = LIES[lie]
    state, reports = honest()
    after, outcome = apply(ALGORITHM, state, [*reports[:2], replace(reports[2], **changes)])
    expected, _ = apply(ALGORITHM, state, reports[:2])
    assert outcome.applied == (0, 1) and list(outcome.refused) == [2]
    assert sentence in outcome.refused[2]
    assert after.point.tobytes() == expected.point.tobytes()


def test_fewer_directions_than_asked():
    """It sent less: its mean is over those. Kills: a check for as many as asked."""
    state, reports = honest()
    _, outcome = apply(ALGORITHM, state, [*reports[:2], replace(reports[2], packet=many(2))])
    assert outcome.applied == (0, 1, 2)


def test_buffers_are_no_combination():
    """They would cost the server a model's directions for every four bytes."""
    state = replace(STATE, buffers=np.ones(4))
    _, reports = honest()
    for buffers, applied in ((fb.identity().encode(np.ones(4)), (0,)), (many(1, dim=4), ())):
        outcome = apply(ALGORITHM, state, [replace(reports[0], buffers=buffers)])[1]
        assert outcome.applied == applied
    assert outcome.refused == {0: "the packet names 1 directions, not at most 0"}
