"""Decentralized training over Flower: the loop's bits, whoever is lost, away, new or broken."""

import math

import numpy as np
import pytest
from flwr.app import Message, RecordDict

import fedbias as fb
from fedbias.gossip import GossipPlan
from fedbias.gossip.client import MODEL
from simulations import InlineGrid, LossyGrid
from strategies import Gossip
from tests.strategies.test_refusals import BAD, answer, packet
from tests.tools.federation import Coming, Watched, app_of, slopes
from tests.tools.gossip_runs import gossip, loop, memories, same_as_the_loop

PROBLEM = fb.LeastSquares.random(7, 5.0, seed=2, clients=5)
OBJECTIVES = PROBLEM.objectives
HYBRID = [*OBJECTIVES[:2], *map(fb.ForwardOnly, OBJECTIVES[2:])]
START = np.linspace(-1, 2, 7)
SEED, LOSSES, ROUNDS = 11, 2, 8
DRAWN = fb.minibatch("reshuffle")
BY_KIND = {
    "gradient": fb.local_steps(2, 0.1, momentum=0.5, inner=DRAWN),
    "loss": fb.local_steps(1, 0.02, momentum=0.9, inner=fb.two_point(4, 1e-3)),
}
PLAIN = {"estimator": fb.exact(), "matching": fb.random_matching(), "step_size": 0.3}
SETTINGS = {
    "plain, an odd number": PLAIN,
    "one pair": PLAIN | {"matching": fb.random_pair()},
    "ring, half way": PLAIN | {"matching": fb.along("ring"), "mixing": 0.5},
    "chosen by hand": PLAIN | {"matching": lambda k: [(k % 5, (k + 2) % 5)]},
    "dithered, with a decay": {
        "estimator": DRAWN,
        "matching": fb.random_matching(),
        "batch_size": 3,
        "step_size": 0.3,
        "decay": fb.cosine_decay(samples=90),
        "compressor": fb.dithered(4),
    },
    "ef21": {
        "estimator": fb.local_steps(2, 0.1, momentum=0.5, inner=DRAWN),
        "matching": fb.random_matching(),
        "batch_size": 3,
        "compressor": fb.top_k(0.3),
        "feedback": fb.ef21(),
        "mixing": 0.4,
    },
    "hybrid": {"estimator": BY_KIND, "matching": fb.random_matching(), "batch_size": 3},
}


def is_lost(k, client):
    """About a third of all, among them first replies."""
    return bool(fb.lost(LOSSES, k, [client], 0.35))


def lost(k):
    return [client for client in range(5) if is_lost(k, client)]


def five(settings, **changes):
    return Gossip(**settings, **({"minimum_clients": 5, "seed": SEED} | changes))


def both(name, losing, start=START, **changes):
    """The strategy's run, the loop's, and the clients of the first."""
    objectives = HYBRID if name == "hybrid" else OBJECTIVES
    inline = InlineGrid(app_of(objectives), 5)
    grid = LossyGrid(inline, is_lost) if losing else inline
    run = gossip(five(SETTINGS[name], **changes), grid, start, ROUNDS, objectives)
    some = {key: value for key, value in changes.items() if key != "minimum_clients"}
    more = {"lost": lost if losing else None, "seed": SEED, **some}
    return run, loop(objectives, start, ROUNDS, **SETTINGS[name], **more), inline.contexts


# The loop's bits ----------------------------------------------------------------------------------


def test_the_losses_are_there():
    """Otherwise the tests below prove less than they say: somebody's first reply among them."""
    pairs = [(k, c) for k in range(ROUNDS) for c in range(5) if is_lost(k, c)]
    assert len(pairs) > 10 and {c for _, c in pairs} == set(range(5))
    assert 2 <= len(lost(0)) <= 3 and set(lost(0)) & set(lost(1))


@pytest.mark.parametrize("losing", [False, True], ids=["", "lossy"])
@pytest.mark.parametrize("name", SETTINGS)
def test_flower_is_the_loop(name, losing, warned):
    """Kills: a setting that does not arrive, a relay for the wrong client, a start that moves with
    the mean, a client that nobody asked yet and that is left out of the mean.
    """
    run, history, contexts = both(name, losing)
    same_as_the_loop(run, history, contexts)
    assert warned() == []
    met = sum(record.pairs for record in run.records[1:])
    assert met > 0 and run.records[-1].spread > 0
    if losing:
        assert sum(record.lost for record in run.records) > 0


@pytest.mark.parametrize("every", [3, 20])
def test_evaluation_changes_no_model(every):
    """The same models as with an evaluation in every round. Kills: a query that commits, rounds
    that evaluate although it is not their turn, a last round that does not.
    """
    run, history, contexts = both("ef21", losing=True, evaluate_every=every)
    same_as_the_loop(run, history, contexts, every)


def test_float32_stays_float32():
    """Kills: an entry, a mean or a relay in another dtype."""
    objectives = slopes(*np.float32([[1, 0.1], [0.3, 2], [0.7, 0.5]]), dtype=np.float32)
    inline = InlineGrid(app_of(objectives), 3)
    start = np.float32([0.1, 0.2])
    run = gossip(Gossip(**PLAIN, minimum_clients=3), inline, start, 4, objectives)
    same_as_the_loop(run, loop(objectives, start, 4, **PLAIN), inline.contexts)
    assert run.means[4].dtype == np.float32 and run.state.entry.dtype == np.float32


def test_another_seed_draws_other_pairs():
    """Kills: a seed that is not passed on."""
    one, other = (both("plain, an odd number", False, seed=seed)[0] for seed in (1, 2))
    assert one.means[ROUNDS].tobytes() != other.means[ROUNDS].tobytes()


# Who is away, who comes late ----------------------------------------------------------------------


ABSENT = {2: {3}, 3: {3, 4}, 4: {0, 3}}  # round → clients


@pytest.mark.parametrize("name", ["plain, an odd number", "ef21"])
def test_a_node_that_goes_away_and_comes_back(name, warned):
    """Its partner waits for nobody, and it goes on from its own model. Kills: pairs among those
    that are there, a relay that is forgotten with its node, a mean that counts who is away.
    """
    grid = Coming(app_of(OBJECTIVES), 5)

    def leave(record, checkpoint):
        grid.away = ABSENT.get(record.round, set())

    run = gossip(five(SETTINGS[name]), grid, START, ROUNDS, OBJECTIVES, leave)
    history = loop(
        *(OBJECTIVES, START, ROUNDS),
        **SETTINGS[name],
        participation=lambda k: set(range(5)) - ABSENT.get(k, set()),
        seed=SEED,
    )
    models = [record.models for record in run.records]
    assert models == [5, 5, 5, 4, 3, 3, 5, 5, 5]
    for k in (1, 2, 6, 7, 8):
        assert run.means[k].tobytes() == history.points[k].tobytes()
        assert run.records[k].spread == history.spreads[k]
    assert (
        memories(run.strategy, grid.contexts)[3][MODEL][1] == history.memories[3][MODEL].tobytes()
    )
    assert [r.pairs for r in run.records[1:]] == [len(o.pairs) for o in history.outcomes]
    assert warned() == [
        f"round {k}: the mean is of {count} of 5 models" for k, count in ((3, 4), (4, 3), (5, 3))
    ]
    asked = grid.asked("train.gossip")
    assert asked == [
        (k, c) for k in range(ROUNDS) for c in range(5) if c not in ABSENT.get(k, set())
    ]


def first_plans(grid, client):
    """The client's plans that carry a model: (round, model)."""
    plans = [
        GossipPlan.from_record(message.content["fedbias"])
        for message, _ in grid.sent
        if message.metadata.message_type == "train.gossip"
    ]
    mine = [plan for plan in plans if plan.client == client]
    return [(plan.round, plan.model) for plan in mine if plan.model is not None]


@pytest.mark.parametrize("every", [1, 2])
def test_a_newcomer_begins_at_the_last_mean(every):
    """Client 4 comes after round 3. Kills: one that begins at the initial arrays, a matching
    without it, a mean of which it is no part.
    """
    grid = Coming(app_of(OBJECTIVES), 5, away={4})

    def come(record, checkpoint):
        if record.round == 3:
            grid.away = set()

    strategy = five(PLAIN, minimum_clients=4, evaluate_every=every)
    run = gossip(strategy, grid, START, 6, OBJECTIVES, come)
    ((number, model),) = first_plans(grid, 4)
    assert number == 3 and model.tobytes() == run.means[3 if every == 1 else 2].tobytes()
    assert np.abs(model - START).min() > 1e-3
    assert run.records[6].models == 5 and run.state.enrolled.keys() == set(range(5))


def test_a_newcomer_whose_reply_is_lost_begins_where_it_was_to():
    """A lost reply changes nothing, although the mean has moved. Kills: a start that moves."""
    inline = Coming(app_of(OBJECTIVES), 5, away={4})
    grid = LossyGrid(inline, lambda k, client: client == 4 and k < 5)

    def come(record, checkpoint):
        if record.round == 3:
            inline.away = set()

    run = gossip(five(PLAIN, minimum_clients=4), grid, START, 7, OBJECTIVES, come)
    plans = first_plans(inline, 4)
    assert [number for number, _ in plans] == [3, 4, 5]
    assert len({run.means[k].tobytes() for k in (3, 4, 5)}) == 3
    assert {model.tobytes() for _, model in plans} == {run.means[3].tobytes()}
    assert run.state.starts == {}


def test_a_newcomer_that_the_graph_has_no_place_for():
    """Four make a torus, five do not: the run ends with the sentence before anybody steps.

    Kills: a round whose work is lost where its pairs are drawn.
    """
    grid, rounds = Coming(app_of(OBJECTIVES), 5, away={4}), []

    def come(record, checkpoint):
        rounds.append(record.round)
        if record.round == 2:
            grid.away = set()

    settings = PLAIN | {"matching": fb.along("torus")}
    with pytest.raises(ValueError) as caught:
        gossip(five(settings, minimum_clients=4), grid, START, 6, OBJECTIVES, come)
    assert str(caught.value) == "along: 5 clients make no torus of rows and columns: use a ring"
    assert rounds == [0, 1, 2]
    assert grid.asked("train.gossip") == [(k, client) for k in range(2) for client in range(4)]


# Who lost its model -------------------------------------------------------------------------------


class Restarts(Watched):
    """Forgets what a client remembers right before the messages of this kind in this round."""

    def __init__(self, *args, kind, number, clients=(2,), **options):
        super().__init__(*args, **options)
        self.when, self.clients = (kind, str(number)), clients

    def push_messages(self, messages):
        pushed = list(messages)
        if pushed and (pushed[0].metadata.message_type, pushed[0].metadata.group_id) == self.when:
            for client in self.clients:
                self.contexts[client + 1].state = RecordDict()
        return super().push_messages(pushed)


SENTENCE = "this client has no model: it lost what it had, and starts again"


@pytest.mark.parametrize("name", ["plain, an odd number", "ef21"])
def test_who_lost_its_model_begins_again(name, warned):
    """Client 2 restarts before round 4. Kills: a server that goes on as if nothing happened, that
    keeps its v_m, or a relay for the model that is gone; a refusal without a new beginning.
    """
    grid = Restarts(app_of(OBJECTIVES), 5, kind="train.gossip", number=4)
    run = gossip(five(SETTINGS[name]), grid, START, ROUNDS, OBJECTIVES)
    assert [r.forgotten for r in run.records] == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert [r.applied for r in run.records] == [0, 5, 5, 5, 4, 5, 5, 5, 5]
    assert [(r.refused, r.models) for r in run.records[3:6]] == [(0, 5), (1, 4), (0, 5)]
    assert run.records[4].refusals == {"2": SENTENCE}
    assert warned() == [
        f"round 4: refused the reply of client 2: {SENTENCE}",
        "round 4: the mean is of 4 of 5 models",
    ]
    (first, again) = first_plans(grid, 2)
    assert (first[0], again[0]) == (0, 4) and again[1].tobytes() == run.means[4].tobytes()
    after = run.checkpoints[4].state
    assert 2 not in {**after.acknowledged, **after.relays, **after.memories, **after.starts}
    undisturbed = both(name, False)[1]
    assert run.means[3].tobytes() == undisturbed.points[3].tobytes()


def test_who_lost_its_model_shows_none(warned):
    """Client 2 restarts between its step and the query of round 4. Kills: a loss that is only
    noticed in training, a client that is counted in the mean, bytes of what did not come.
    """
    grid = Restarts(app_of(OBJECTIVES), 5, kind="query.model", number=4)
    run = gossip(five(PLAIN), grid, START, 6, OBJECTIVES)
    assert [r.forgotten for r in run.records] == [0, 0, 0, 0, 1, 0, 0]
    assert [r.models for r in run.records] == [5, 5, 5, 5, 4, 5, 5]
    assert [r.applied for r in run.records[1:]] == [5] * 6
    assert warned() == [
        f"round 4: client 2 showed no model: {SENTENCE}",
        "round 4: the mean is of 4 of 5 models",
    ]
    assert [number for number, _ in first_plans(grid, 2)] == [0, 4]
    size = len(packet(START))
    assert [r.evaluation_bytes // size for r in run.records[3:6]] == [9, 8, 9]


def test_everybody_lost_its_model(warned):
    """All begin again at the last mean. Kills: 0/0 in a mean of nobody, a run that ends."""
    grid = Restarts(app_of(OBJECTIVES), 5, kind="train.gossip", number=3, clients=range(5))
    run = gossip(five(PLAIN), grid, START, 4, OBJECTIVES)
    assert [(r.forgotten, r.applied, r.models) for r in run.records[2:]] == [
        *((0, 5, 5), (5, 0, None), (0, 5, 5))
    ]
    assert run.records[3].spread is None and 3 not in run.means
    starts = [first_plans(grid, client)[-1] for client in range(5)]
    assert {(k, model.tobytes()) for k, model in starts} == {(3, run.means[2].tobytes())}
    assert len(warned()) == 6


# Broken and malicious clients ---------------------------------------------------------------------


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reply_is_refused_and_the_round_goes_on(case, warned):
    """Client 1 in round 2 of 3: as if it had been lost. Kills: each check that is dropped."""
    change, reason = BAD[case]
    objectives = fb.LeastSquares.random(6, 4.0, seed=2, clients=4).objectives
    grid = Watched(app_of(objectives), 4, intercept={(1, 1): change})
    strategy = Gossip(**PLAIN, minimum_clients=4)
    start = np.zeros(6)
    run = gossip(strategy, grid, start, 3, objectives)
    assert [(r.applied, r.refused, r.lost) for r in run.records[1:]] == [
        *((4, 0, 0), (3, 1, 0), (4, 0, 0))
    ]
    (line,) = warned()
    assert line.startswith("round 2: refused the reply of client 1: ") and reason in line
    history = loop(objectives, start, 3, **PLAIN, lost=lambda k: [1] if k == 1 else [])
    same_as_the_loop(run, history, grid.contexts)


class Shows(Watched):
    """Answers the query of client 1 in round 2 in its place."""

    change = None

    def _answer(self, message):
        reply = super()._answer(message)
        kind, number = message.metadata.message_type, message.metadata.group_id
        ours = message.metadata.dst_node_id == 2 and (kind, number) == ("query.model", "2")
        return self.change(message, reply) if ours else reply


def shows(make):
    return answer(lambda record: {"model": make(record["model"])})


NO_MODELS = {
    "NaN": (shows(lambda _: packet([math.nan] + [0.0] * 6)), "1 entries are NaN"),
    "too short": (shows(lambda _: packet([0.0] * 6)), "6 entries of float64, not 7 of float64"),
    "another dtype": (shows(lambda _: packet([0] * 7, np.float32)), "7 entries of float32, not 7"),
    "compressed": (
        shows(lambda _: bytes(fb.top_k(0.5).encode(START))),
        "model must come uncompressed, not as top_k",
    ),
    "altered": (shows(lambda b: b[:-5] + b"12345"), "checksum"),
    "no packet": (answer(lambda record: {}), "carries no packet 'model'"),
    "nothing": (lambda m, _: Message(RecordDict(), reply_to=m), "no record 'fedbias'"),
    **{name: BAD[name] for name in ("an exception", "an error without reason")},
}


@pytest.mark.parametrize("case", NO_MODELS)
def test_a_bad_model_is_left_out_of_the_mean(case, warned):
    """The models themselves are untouched. Kills: each check that is dropped, a client that is
    forgotten because its model did not arrive.
    """
    change, reason = NO_MODELS[case]
    grid = Shows(app_of(OBJECTIVES), 5)
    grid.change = change
    run = gossip(five(PLAIN), grid, START, 4, OBJECTIVES)
    history = loop(OBJECTIVES, START, 4, **PLAIN, seed=SEED)
    assert [r.models for r in run.records] == [5, 5, 4, 5, 5]
    lines = warned()
    assert len(lines) == 2 and lines[1] == "round 2: the mean is of 4 of 5 models"
    assert lines[0].startswith("round 2: client 1 showed no model: ") and reason in lines[0]
    assert [r.forgotten for r in run.records] == [0] * 5
    for k in (1, 3, 4):
        assert run.means[k].tobytes() == history.points[k].tobytes()
    assert np.abs(run.means[2] - history.points[2]).max() > 1e-6
    assert run.records[2].evaluation_bytes == run.records[1].evaluation_bytes - len(packet(START))


def test_a_stranger_shows_nothing():
    """As if nothing had come. Kills: a model of a node that nobody knows in the mean."""

    def stranger(message, reply):
        reply.metadata.__dict__["_src_node_id"] = 99
        return reply

    runs = []
    for change in (stranger, NO_MODELS["nothing"][0]):
        grid = Shows(app_of(OBJECTIVES), 5)
        grid.change = change
        runs.append(gossip(five(PLAIN), grid, START, 3, OBJECTIVES))
        assert [r.models for r in runs[-1].records] == [5, 5, 4, 5]
    assert runs[0].means[2].tobytes() == runs[1].means[2].tobytes()
    assert runs[0].records[2].evaluation_bytes == runs[1].records[2].evaluation_bytes


def test_who_never_could_begin_is_no_part_of_the_mean(warned):
    """Three clients with gradients, two that lack them: refused in every round. Kills: a mean that
    the start of who cannot take part holds back.
    """
    grid = InlineGrid(app_of([*OBJECTIVES[:3], *map(fb.ForwardOnly, OBJECTIVES[3:])]), 5)
    run = gossip(five(PLAIN), grid, START, 3, OBJECTIVES)
    assert [(r.applied, r.refused, r.models) for r in run.records[1:]] == [(3, 2, 3)] * 3
    kept = memories(run.strategy, grid.contexts)
    models = [np.frombuffer(kept[client][MODEL][1]) for client in range(3)]
    assert run.means[3].tobytes() == np.mean(models, axis=0).tobytes()
    assert len(warned()) == 9 and "ForwardOnly" in warned()[0]


def test_nobody_can_do_it_from_the_start(warned):
    """Kills: all the rounds for nothing."""
    grid = InlineGrid(app_of(list(map(fb.ForwardOnly, OBJECTIVES))), 5)
    with pytest.raises(ValueError, match="no client could do its part; client 0: .*gradient"):
        gossip(five(PLAIN), grid, START, 3, OBJECTIVES)
    assert len(warned()) == 5


def test_a_second_report_does_not_count(warned):
    """Kills: a client that speaks twice."""
    grid = Watched(app_of(OBJECTIVES), 5, intercept={(0, 2): lambda m, reply: [reply, reply]})
    run = gossip(five(PLAIN), grid, START, 2, OBJECTIVES)
    history = loop(OBJECTIVES, START, 2, **PLAIN, seed=SEED)
    assert run.means[2].tobytes() == history.points[2].tobytes()
    assert warned() == [
        "round 1: refused the reply of client 2: client 2 reported twice in round 0"
    ]


def test_a_mean_beyond_the_dtype(warned):
    """Each model is finite, their sum is not. Kills: an entry that no plan can carry."""
    objectives = slopes([0.0], [0.0], [0.0], dtype=np.float32)
    grid = Coming(app_of(objectives), 3, away={2})

    def come(record, checkpoint):
        grid.away = set() if record.round else {2}

    strategy = Gossip(fb.exact(), lambda k: [], minimum_clients=2)
    start = np.float32([2e38])
    run = gossip(strategy, grid, start, 3, objectives, come)
    assert [r.applied for r in run.records] == [0, 2, 3, 3] and run.state.entry == start
    assert [r.spread for r in run.records] == [0.0, None, None, None]
    assert warned() == [
        f"round {k}: the mean of the models is not finite: diverged" for k in (1, 2, 3)
    ]
