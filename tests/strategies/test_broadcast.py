"""The model sent as seeds: the run with the model itself, bit for bit, in bytes without a dim."""

import json
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

import fedbias as fb
from clients import NumpyObjective
from clients.memory import load_ledger
from fedbias.algorithm import Algorithm
from fedbias.directions import combination
from fedbias.ledger import LOST_MODEL, NEVER, settle
from fedbias.replica import Replica, Step, caught_up, steps_record, whole_record
from fedbias.state import Outcome, ServerState
from simulations import LossyGrid
from strategies import FedBias, load_checkpoint, save_checkpoint
from strategies.broadcast import SeedBroadcast, size_of
from strategies.replies import Replies
from tests.tools.federation import Watched, app_of, named, train
from tests.tools.kinds import Cliff, able
from tests.tools.uneven import uneven

DIM = 300
OBJECTIVES = uneven(7, 20, 11, 9, 30, 14, dim=DIM)
LOSSES = able(OBJECTIVES, "llllll")
MIXED = able(OBJECTIVES, "ldlldl")
CLIENTS = len(OBJECTIVES)
LINE = fb.gradient_descent(0.01)
ONE = fb.two_point(2, 1e-3)
TWO = fb.by_capability(directional=fb.forward_gradient(2), loss=ONE)
OPTIMIZERS = [
    LINE,
    fb.heavy_ball(0.01, 0.3),
    fb.polyak(0.01, 0.4),
    fb.nesterov(0.01, 0.4),
    fb.adagrad(0.05),
    fb.adagrad_norm(0.2),
    fb.adam(0.02),
]


def grid_of(objectives, **options):
    return Watched(app_of(objectives), len(objectives), **options)


def told(grid):
    """(round, client) → whether it was sent the model or steps."""
    kinds = {}
    for message, _ in grid.sent:
        if message.metadata.message_type == "train":
            record = message.content["fedbias"]
            header = json.loads(record["header"])
            kinds[header["round"], header["client"]] = "model" if "point" in record else "steps"
    return kinds


def downlink(grid, rounds):
    """Bytes of what was sent beside the plans' headers, by round."""
    total = [0] * rounds
    for message, _ in grid.sent:
        if message.metadata.message_type == "train":
            record = dict(message.content["fedbias"])
            round = json.loads(record.pop("header"))["round"]
            parts = [
                p for part in record.values() for p in (part if type(part) is list else [part])
            ]
            total[round] += sum(map(len, parts))
    return total


def bits(vectors):
    return {name: (vector.dtype, vector.tobytes()) for name, vector in vectors.items()}


def remembered(grid, state):
    """What every client has committed."""
    ledgers = {node - 1: load_ledger(context) for node, context in grid.contexts.items()}
    return [
        bits(settle(ledger, state.acknowledged.get(client, NEVER)).memory)
        for client, ledger in sorted(ledgers.items())
    ]


def same_run(one, other):
    """Two runs over messages: all states of the server, and what became of the replies."""
    for mine, theirs in zip(one.checkpoints, other.checkpoints, strict=True):
        mine, theirs = mine.state, theirs.state
        assert mine.point.dtype == theirs.point.dtype
        assert mine.point.tobytes() == theirs.point.tobytes()
        assert bits(mine.optimizer) == bits(theirs.optimizer)
        fields = ("round", "acknowledged", "samples", "batch_size", "variances")
        assert all(getattr(mine, name) == getattr(theirs, name) for name in fields)
    for mine, theirs in zip(one.records, other.records, strict=True):
        assert replace(mine, seconds=0, downlink_bytes=0) == replace(
            theirs, seconds=0, downlink_bytes=0
        )


def both(objectives, optimizer, rounds, lost=(), intercept=None, dtype=np.float64, **settings):
    """The run with the model and the one with seeds, which must be one; and the latter's grid."""
    runs, grids, start = [], [], np.linspace(-1, 1, objectives[0].dim, dtype=dtype)
    for broadcast in ("model", "seeds"):
        grid = grid_of(objectives, intercept=intercept)
        strategy = FedBias(
            optimizer, broadcast=broadcast, minimum_clients=len(objectives), seed=6, **settings
        )
        lossy = LossyGrid(grid, lambda k, client: (k, client) in lost)
        runs.append(train(strategy, lossy, start, rounds))
        grids.append(grid)
    same_run(*runs)
    for run, grid in zip(runs, grids, strict=True):
        assert [record.downlink_bytes for record in run.records[1:]] == downlink(grid, rounds)
    state = runs[0].strategy.state
    assert len(np.unique(runs[0].points, axis=0)) > rounds / 2  # it moved
    assert remembered(grids[0], state) == remembered(grids[1], state)
    kinds = [set(told(grid).values()) for grid in grids]
    assert kinds == [{"model"}, {"model", "steps"}]
    return runs[1], grids[1]


def by_the_loop(objectives, optimizer, rounds, lost, asked, dtype, **settings):
    return fb.run(
        *(objectives, optimizer, np.linspace(-1, 1, DIM, dtype=dtype), rounds),
        participation=asked,
        lost=lambda k: [client for client in range(CLIENTS) if (k, client) in lost],
        seed=6,
        **settings,
    )


# The same run -------------------------------------------------------------------------------------

LOST = {(0, 3), (1, 0), (2, 1), (2, 5), (4, 2), (5, 0), (5, 1), (7, 4), (8, 3)}
HARD = {
    "estimator": TWO,
    "weights": "inverse_variance",
    "batch_size": 6,
    "decay": fb.cosine_decay(samples=500, warmup=40),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_seeds_move_every_optimizer_as_the_model_does(optimizer, dtype):
    """Two kinds, two thirds asked, a fifth lost, decay: points, states and memories are those of
    the model, and of the loop. Kills: arithmetic of another order, a round's step with the next
    round's step size or weights, a client that misses a round and goes on from another model.
    """
    run, grid = both(MIXED, optimizer, 8, LOST, dtype=dtype, fraction=0.67, **HARD)
    kinds = told(grid)
    assert len(kinds) == 32 and list(kinds.values()).count("steps") > 18
    assert sum(record.lost for record in run.records) > 3

    def asked(k):
        return fb.sample_clients(6, k, range(CLIENTS), 4)

    loop = by_the_loop(MIXED, optimizer, 8, LOST, asked, dtype, **HARD)
    assert run.points.dtype == dtype and run.points.tobytes() == loop.points.tobytes()
    assert bits(run.strategy.state.optimizer) == bits(loop.optimizer_state)
    assert len(run.strategy.state.variances) == 2


SETTINGS = {
    "uniform": {"estimator": ONE},
    "central": {"estimator": fb.two_point(2, 1e-3, central=True)},
    "examples": {"estimator": ONE, "weights": "examples"},
    "two kinds by examples": {"estimator": TWO, "weights": "examples", "batch_size": 4},
    "error feedback": {
        "estimator": ONE,
        "compressor": fb.top_k(0.1),
        "feedback": fb.error_feedback(),
    },
    "differential": {
        "estimator": ONE,
        "compressor": fb.uniform(bits=4),
        "feedback": fb.differential(),
    },
    "a batch size that grows": {
        "estimator": ONE,
        "batch_size": fb.cross_client_test(eta=0.5, maximum=20),
    },
    "the bias, measured": {"estimator": ONE, "measure_bias": 2},
    "enough replies or none": {"estimator": ONE, "minimum_replies": 5},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_whatever_the_settings(case):
    """Kills: a setting that the steps do not tell."""
    settings = SETTINGS[case]
    run, _ = both(MIXED, LINE, 8, LOST, **settings)
    if "minimum_replies" in settings:  # rounds 3 and 6 had four replies, and made no step
        assert [record.applied for record in run.records[1:]] == [5, 5, 0, 6, 5, 0, 6, 5]
        return
    loop = by_the_loop(MIXED, LINE, 8, LOST, None, np.float64, **settings)
    assert run.points.tobytes() == loop.points.tobytes()


def unlike(message, reply):
    """Another report of the same client."""
    record = dict(reply.content["fedbias"])
    record["packet"] = bytes(combination(5, np.float32([3.0, 4.0]), DIM, float))
    return Message(RecordDict({"fedbias": ConfigRecord(record)}), reply_to=message)


def of_another_round(message, reply):
    record = dict(unlike(message, reply).content["fedbias"])
    record["header"] = json.dumps(json.loads(record["header"]) | {"round": 77})
    return Message(RecordDict({"fedbias": ConfigRecord(record)}), reply_to=message)


def as_a_vector(message, reply):
    """What no honest client answers where it was asked for slopes."""
    record = dict(reply.content["fedbias"])
    record["packet"] = bytes(fb.sign().encode(np.linspace(-1, 1, DIM)))
    return Message(RecordDict({"fedbias": ConfigRecord(record)}), reply_to=message)


REPLIES = {
    "refused": (of_another_round, 1),
    "twice": (lambda m, reply: [reply, unlike(m, reply)], 1),
    "twice, the other first": (lambda m, reply: [unlike(m, reply), reply], 1),
    "twice, the first of another round": (lambda m, reply: [of_another_round(m, reply), reply], 1),
    "an error": (lambda m, reply: Message(Error(2, "the disk is full"), reply_to=m), 1),
    "a vector": (as_a_vector, 0),
}


@pytest.mark.parametrize("case", REPLIES)
def test_replies_that_are_wrong(case):
    """Client 2 in rounds 1 and 4. Kills: a step with a packet that the server did not apply; a
    client that holds up all the others for the rest of the run.
    """
    change, refused = REPLIES[case]
    run, grid = both(LOSSES, LINE, 7, intercept={(0, 2): change, (3, 2): change}, estimator=ONE)
    assert [record.refused for record in run.records] == [0, refused, 0, 0, refused, 0, 0, 0]
    assert sum(kind == "model" for kind in told(grid).values()) <= 8


def test_a_second_report_never_counts(warned):
    """Nor where the first was refused. Kills: a step whose packet is the other report's."""
    grid = grid_of(LOSSES, intercept={(1, 2): REPLIES["twice, the first of another round"][0]})
    strategy = FedBias(LINE, ONE, broadcast="seeds", minimum_clients=6)
    run = train(strategy, grid, np.zeros(DIM), 2)
    assert (run.records[2].applied, run.records[2].refused) == (5, 1)
    assert warned() == ["round 2: refused the reply of client 2: the report is of round 77, not 1"]


def test_directions_that_were_dropped():
    """No loss beyond a cliff. Kills: a mean that counts them on one side alone."""
    cliffs = [Cliff(f, -0.7) for f in OBJECTIVES]  # the first coordinate begins at −1
    estimator = fb.two_point(4, 0.5)
    run, _ = both(cliffs, fb.adagrad(0.001), 5, estimator=estimator)
    assert 20 < sum(record.dropped for record in run.records) < 60


def test_a_run_that_diverges():
    """The server refuses the step, nobody takes it. Kills: clients that go to infinity alone."""
    bowl = NumpyObjective(
        lambda x, b: 0.0, directional=lambda x, v, b: x.astype(float) @ v, dim=DIM, size=1
    )
    step, estimator = fb.gradient_descent(1e13), fb.forward_gradient(2)
    run, _ = both([bowl] * 6, step, 4, estimator=estimator, dtype=np.float32)
    assert [record.applied for record in run.records] == [0, 6, 6, 0, 0]
    assert "the run diverges" in run.records[3].refusals["0"]


def test_a_model_smaller_than_its_steps():
    """Then everyone is sent the model. Kills: steps that are forgotten, and clients that are told
    that nothing moved.
    """
    tiny = able(uneven(3, 4, 5, 6, dim=4), "llll")
    points = []
    for broadcast in ("model", "seeds"):
        grid = grid_of(tiny)
        strategy = FedBias(LINE, ONE, broadcast=broadcast, minimum_clients=4)
        points.append(train(strategy, grid, np.ones(4), 6).points)
        assert set(told(grid).values()) == {"model"}
    assert points[0].tobytes() == points[1].tobytes() and len(np.unique(points[0], axis=0)) == 7


def test_evaluation_on_the_clients_sends_the_model():
    """Kills: an evaluation of a copy that is a round behind."""
    run, _ = both(LOSSES, LINE, 4, estimator=ONE, evaluate_every=2)
    losses = [record.client_loss for record in run.records]
    assert [loss is None for loss in losses] == [True, True, False, True, False]
    weights = [f.size for f in OBJECTIVES]
    expected = np.average([f.loss(run.point) for f in OBJECTIVES], weights=weights)
    assert losses[-1] == pytest.approx(expected, rel=1e-12)


# Bytes --------------------------------------------------------------------------------------------


def rolling(dim):
    """A loss that the first coordinate alone decides: the same slopes at any dim."""
    return NumpyObjective(lambda x, b: float(x[0] ** 2 + x[0]), dim=dim, size=3)


def test_the_bytes_of_a_round_by_hand():
    """Two clients of three directions. Kills: bits for bytes, text or packets that do not count."""
    run = train(
        FedBias(fb.gradient_descent(0.25), fb.two_point(3, 0.5), broadcast="seeds"),
        grid_of([rolling(500), rolling(500)]),
        np.zeros(500),
        3,
    )
    packet = 10 + 12 + 3 * 4 + 4  # head, seed and count, slopes, checksum
    model = 10 + 8 * 500 + 4 + len('{"round": 0}')
    steps = [
        f'{{"since": {k}, "round": {k + 1}, "check": {crc32(run.points[k + 1].tobytes())}, '
        f'"steps": [[{k}, "gradient_descent(step_size=0.25)", [1.0, 1.0]]]}}'
        for k in range(2)
    ]
    assert [r.uplink_bytes for r in run.records] == [0] + 3 * [2 * packet]
    assert [r.downlink_bytes for r in run.records] == [
        *(0, 2 * model),
        *(2 * (len(text) + 2 * packet) for text in steps),
    ]


def digits(grid, k):
    """Of the checks that were sent in a round: as many as the number happens to have."""
    texts = [
        message.content["fedbias"]["steps"]
        for message, _ in grid.sent
        if message.metadata.message_type == "train" and "steps" in message.content["fedbias"]
    ]
    steps = [json.loads(text) for text in texts]
    return sum(len(str(step["check"])) for step in steps if step["round"] == k)


def test_after_the_first_round_bytes_do_not_depend_on_the_dim():
    """d = 100 and d = 10000, but for how many digits a checksum has.

    Kills: anything of the model's size, in either direction.
    """
    runs = []
    for dim in (100, 10_000):
        grid = grid_of([rolling(dim) for _ in range(4)])
        strategy = FedBias(
            fb.adam(0.1), fb.two_point(2, 0.5), broadcast="seeds", minimum_clients=4, fraction=0.75
        )
        run = train(strategy, grid, np.zeros(dim), 9)
        first = {client: min(k for k, c in grid.asked() if c == client) for client in range(4)}
        kinds = told(grid)
        assert all(kinds[k, c] == ("model" if k == first[c] else "steps") for k, c in kinds)
        later = range(max(first.values()) + 2, 10)
        runs.append(
            [
                (run.records[k].downlink_bytes - digits(grid, k - 1), run.records[k].uplink_bytes)
                for k in later
            ]
        )
    assert runs[0] == runs[1] and len(runs[0]) > 5
    assert max(down for down, _ in runs[0]) < 2000


# Who is sent what ---------------------------------------------------------------------------------


def packets_of(estimates, slopes=2):
    return tuple(combination(k, np.ones(slopes, np.float32), 20, float) for k in range(estimates))


class Talk:
    """A SeedBroadcast and the rounds it hears of.

    20 entries are 160 bytes, and a packet of two slopes has 34.
    """

    def __init__(self, start=0, optimizer=LINE, dim=20, slopes=2):
        self.slopes = slopes
        self.algorithm = Algorithm(optimizer, ONE)
        self.state = ServerState(np.zeros(dim), start)
        self.broadcast = SeedBroadcast(self.algorithm, self.state)

    def round(self, *clients, silent=(), applied=True, lost_models=()):
        """Clients report with one packet each; those that are silent do not."""
        before, self.state = self.state, replace(self.state, round=self.state.round + 1)
        heard = [client for client in clients if client not in silent]
        reports = [
            fb.Report(before.round, client, packet, 3, 0.0, 1)
            for client, packet in zip(heard, packets_of(len(heard), self.slopes), strict=True)
        ]
        came = Replies(reports=reports, lost_models=list(lost_models))
        outcome = Outcome(applied=tuple(heard) if applied else ())
        self.broadcast.close(before, self.state, came, outcome)

    def says(self, *clients):
        """For each client the rounds of the steps it would be sent; "model" for the model."""
        found = []
        for record in self.broadcast.packets(self.state, clients).values():
            steps = json.loads(record["steps"])["steps"] if "steps" in record else None
            found.append("model" if steps is None else [step[0] for step in steps])
        return found


def test_who_has_reported_has_the_model():
    """Of the round it reported in. Kills: the model twice, the step of a round that was missed."""
    talk = Talk(dim=40)
    assert talk.says(0, 1, 7) == ["model"] * 3
    talk.round(0, 1, silent=[1])
    assert talk.says(0, 1, 7) == [[0], "model", "model"]
    talk.round(1)
    assert talk.says(0, 1, 7) == [[0, 1], [1], "model"]
    talk.round(0, 1, silent=[0, 1])
    assert talk.says(0, 1) == [[0, 1], [1]]
    talk.round(0, 1)
    assert talk.says(0, 1) == [[3], [3]]


def test_a_round_without_a_step():
    """Too few replies: who reported has the model all the same. Kills: a step that was not made."""
    talk = Talk()
    talk.round(0, 1, applied=False)
    assert talk.says(0, 1, 2) == [[], [], "model"]
    talk.round(0)
    assert talk.says(0, 1) == [[1], [1]]


def test_steps_longer_than_the_model_are_not_sent():
    """A plan of four packets and their text is longer than the 160 bytes of 20 entries, however
    much state an optimizer has. Kills: a client that is sent more than the model.
    """
    for state in ({}, {"first": np.zeros(20), "second": np.zeros(20)}):
        talk = Talk()
        talk.state = replace(talk.state, optimizer=state)
        talk.round(0)
        assert talk.says(0) == [[0]]
        talk.round(1, 2, 3)
        assert talk.says(0, 1) == ["model", "model"]  # 4·34 and 3·34 bytes, with their text
        assert 3 * 34 + len(json.dumps({"since": 1, "round": 2, "steps": []})) < 160


def test_steps_are_sent_where_they_are_shorter_than_the_models_bytes():
    """Models of 17 to 29 entries, and texts of any length: by a byte either way.

    Kills: steps as long as the model, a look at the headers of both.
    """
    seen = set()
    for dim in range(17, 30):
        for decimals in range(1, 9):
            talk = Talk(optimizer=fb.gradient_descent(float("0." + "1" * decimals)), dim=dim)
            talk.round(0)
            now = Replica(1, talk.state.point)
            step = Step(0, talk.algorithm.optimizer, (1.0,), packets_of(1))
            beyond = size_of(steps_record(0, now, [step])) - 8 * dim
            assert talk.says(0) == (["model"] if beyond >= 0 else [[0]])
            seen.add(beyond)
    assert {-1, 0, 1} <= seen


def test_the_model_is_coded_where_somebody_needs_it(monkeypatch):
    """And once for all of them. Kills: a model that is coded in every round."""
    coded = []

    def watched(replica):
        coded.append(replica.round)
        return whole_record(replica)

    monkeypatch.setattr("strategies.broadcast.whole_record", watched)
    talk = Talk(dim=40)
    assert talk.says(0, 1, 2) == ["model"] * 3 and coded == [0]
    talk.round(0, 1)
    assert talk.says(0, 1) == [[0], [0]] and coded == [0]
    assert talk.says(0, 2, 3) == [[0], "model", "model"] and coded == [0, 1]


def test_steps_are_forgotten_once_they_are_longer_than_the_model():
    """3600 bytes hold four packets of 826. Kills: a memory that grows with the rounds, a client
    that is told a part of what it missed.
    """
    talk = Talk(dim=450, slopes=200)
    talk.round(*range(5))
    assert talk.says(0) == ["model"]  # five packets of one round are too many already
    for k in range(1, 9):
        talk.round(0, k)
    assert talk.says(8, 7, 6, 5) == [[8], [7, 8], "model", "model"]
    held = talk.broadcast._steps
    assert [step.round for step in held] == [7, 8]
    assert sum(step.wire_bytes for step in held) == 4 * 826 <= talk.state.point.nbytes
    talk.round(0)
    assert talk.says(0, 8, 7) == [[9], [8, 9], "model"]


def test_who_lost_the_model_is_sent_it():
    """Kills: steps for one who cannot take them, a model for the others."""
    talk = Talk()
    talk.round(0, 1)
    talk.round(0, lost_models=[1])
    assert talk.says(0, 1) == [[1], "model"]
    talk.round(0, lost_models=[5])  # whom nobody knows to have it
    assert talk.says(0, 5) == [[2], "model"]


def test_a_run_that_goes_on_begins_anew():
    """Round 7 is the first. Kills: rounds before it that count as steps that are there."""
    talk = Talk(start=7)
    assert talk.says(0) == ["model"]
    talk.round(0)
    assert talk.says(0, 1) == [[7], "model"]


def test_records_are_made_once_for_all_who_are_alike():
    """Kills: the model coded for each of a thousand clients."""
    talk = Talk()
    talk.round(0, 1)
    records = talk.broadcast.packets(talk.state, range(5))
    assert records[0] is records[1] and records[2] is records[3] is records[4]


def test_a_client_that_missed_much_is_sent_the_model():
    """Over messages: away for twelve rounds of 300 float32. Kills: steps longer than the model."""

    class Away(Watched):
        looks = 0

        def get_node_ids(self):
            self.looks += 1
            away = {2} if 4 <= self.looks < 16 else set()
            return [node for node in super().get_node_ids() if node not in away]

    def run(broadcast):
        grid = Away(app_of(LOSSES), CLIENTS)
        strategy = FedBias(LINE, ONE, broadcast=broadcast, minimum_clients=CLIENTS)
        return train(strategy, grid, np.zeros(DIM, np.float32), 18), told(grid)

    (with_model, _), (with_seeds, kinds) = run("model"), run("seeds")
    same_run(with_seeds, with_model)
    asked = [k for k, client in kinds if client == 1]
    back = next(k for k in asked if k - 1 not in asked and k > 0)
    assert len(asked) == 6 and back > 10
    assert [k for k in asked if kinds[k, 1] == "model"] == [0, back]
    assert [k for k, client in kinds if kinds[k, client] == "model" and client != 1] == [0] * 5


def test_who_comes_late_is_sent_the_model():
    """Kills: steps for a client that never had the model."""

    class Coming(Watched):
        looks = 0

        def get_node_ids(self):
            self.looks += 1
            return [node for node in super().get_node_ids() if node != 4 or self.looks > 5]

    runs = []
    for broadcast in ("model", "seeds"):
        grid = Coming(app_of(LOSSES), CLIENTS)
        strategy = FedBias(LINE, ONE, broadcast=broadcast, minimum_clients=CLIENTS - 1)
        runs.append(train(strategy, grid, np.zeros(DIM), 9))
    same_run(*runs)
    kinds = told(grid)
    first = min(k for k, client in kinds if client == 3)
    assert first > 2 and kinds[first, 3] == "model" and kinds[first + 1, 3] == "steps"
    assert sum(kind == "model" for kind in kinds.values()) == CLIENTS


# A client that lost its copy ----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [LINE, fb.heavy_ball(0.01, 0.3)], ids=lambda o: o.name)
def test_a_client_that_lost_its_model_is_sent_it_again(optimizer, warned):
    """Client 2's process restarts after round 4: it says so in round 5, is sent the model in
    round 6, and nobody else notices. Kills: a client that is lost for good, a model for everyone,
    a step with a reply that never was.
    """
    grid, strategy = (
        grid_of(LOSSES),
        FedBias(optimizer, ONE, broadcast="seeds", seed=6, minimum_clients=6),
    )
    records = []

    def restart(record, checkpoint):
        records.append(record)
        if record.round == 4:
            grid.contexts[3].state = RecordDict()

    strategy.start(grid, named(np.zeros(DIM)), 9, on_round=restart)
    assert [(r.applied, r.refused, r.lost) for r in records[1:]] == [
        *[(6, 0, 0)] * 4,
        (5, 1, 0),
        *[(6, 0, 0)] * 4,
    ]
    (reply,) = [r for m, r in grid.sent if r.has_error()]
    assert reply.error.code == LOST_MODEL
    assert warned() == [
        "round 5: refused the reply of client 2: this client does not have the model that the "
        "steps go on from",
        "round 6: client 2 had lost its memory",
    ]
    kinds = told(grid)
    again = [pair for pair, kind in kinds.items() if kind == "model" and pair[0]]
    assert again == [(5, 2)]
    loop = fb.run(
        *(LOSSES, optimizer, np.zeros(DIM), 9),
        estimator=ONE,
        participation=lambda k: [0, 1, 3, 4, 5] if k == 4 else range(6),
        seed=6,
    )
    assert strategy.state.point.tobytes() == loop.points[-1].tobytes()


@pytest.mark.parametrize("optimizer", [LINE, fb.heavy_ball(0.01, 0.3)], ids=lambda o: o.name)
def test_a_client_whose_model_is_another_is_sent_the_servers(optimizer, warned):
    """Client 2's copy is an ulp beside it after round 4: it says so in round 5, and is sent the
    model in round 6. Kills: replies from another point than the server's, a client that is lost.
    """
    grid = grid_of(LOSSES)
    strategy = FedBias(optimizer, ONE, broadcast="seeds", seed=6, minimum_clients=6)
    records, points = [], []

    def nudge(record, checkpoint):
        records.append(record)
        points.append(checkpoint.state.point)
        if record.round == 4:
            kept = grid.contexts[3].state["fedbias.model"]
            kept["point"] = Array(np.nextafter(kept["point"].numpy(), 9))

    strategy.start(grid, named(np.linspace(-1, 1, DIM)), 9, on_round=nudge)
    assert [(r.applied, r.refused) for r in records[1:]] == [*[(6, 0)] * 4, (5, 1), *[(6, 0)] * 4]
    assert warned() == [
        "round 5: refused the reply of client 2: the steps do not lead to the server's model here: "
        "other numbers",
    ]
    kinds = told(grid)
    assert [pair for pair, kind in kinds.items() if kind == "model" and pair[0]] == [(5, 2)]
    loop = fb.run(
        *(LOSSES, optimizer, np.linspace(-1, 1, DIM), 9),
        estimator=ONE,
        participation=lambda k: [0, 1, 3, 4, 5] if k == 4 else range(6),
        seed=6,
    )
    assert np.stack(points).tobytes() == loop.points.tobytes()


def test_everyone_lost_the_model():
    """Kills: a federation that never comes back."""
    grid, strategy = grid_of(LOSSES), FedBias(LINE, ONE, broadcast="seeds", minimum_clients=6)
    records = []

    def restart(record, checkpoint):
        records.append(record)
        if record.round == 2:
            for context in grid.contexts.values():
                context.state = RecordDict()

    strategy.start(grid, named(np.zeros(DIM)), 5, on_round=restart)
    assert [record.applied for record in records] == [0, 6, 6, 0, 6, 6]
    assert [k for (k, client), kind in told(grid).items() if kind == "model" and client == 0] == [
        *(0, 3)
    ]


def test_another_error_is_no_lost_model():
    """Kills: the model for everyone who refuses."""
    failing = {(2, 1): lambda m, reply: Message(Error(2, "no disk"), reply_to=m)}
    grid = grid_of(LOSSES, intercept=failing)
    train(FedBias(LINE, ONE, broadcast="seeds", minimum_clients=6), grid, np.zeros(DIM), 5)
    assert told(grid)[3, 1] == "steps"


# Resumed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", ["as they were", "ahead", "new"])
def test_a_resumed_run_sends_everyone_the_model_once(clients, tmp_path):
    """Through a file; the clients may have gone on, or have been replaced. Kills: steps that are
    taken from a model that the server left behind, a run that is not the uninterrupted one.
    """
    settings = {**HARD, "broadcast": "seeds", "minimum_clients": CLIENTS, "seed": 6}
    optimizer, start = fb.nesterov(0.01, 0.4), np.zeros(DIM)
    whole = train(FedBias(optimizer, **settings), grid_of(MIXED), start, 9)
    grid = grid_of(MIXED)
    stopped = 6 if clients == "ahead" else 4
    first = train(FedBias(optimizer, **settings), grid, start, stopped)
    save_checkpoint(tmp_path / "c.safetensors", first.checkpoints[4])
    if clients == "new":
        grid = grid_of(MIXED)
    grid.sent.clear()
    resume = load_checkpoint(tmp_path / "c.safetensors")
    run = train(FedBias(optimizer, **settings), grid, start, 9, resume=resume)
    assert run.points.tobytes() == whole.points[5:].tobytes()
    assert bits(run.strategy.state.optimizer) == bits(whole.strategy.state.optimizer)
    assert told(grid) == {
        (k, client): "model" if k == 4 else "steps" for k in range(4, 9) for client in range(6)
    }


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broadcast", ["", "model ", "SEEDS", None, True, 1])
def test_a_choice_that_is_neither(broadcast):
    with pytest.raises(ValueError, match="FedBias: broadcast must be one of"):
        FedBias(LINE, ONE, broadcast=broadcast)


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": fb.minibatch()},
        {"estimator": {"gradient": fb.exact(), "loss": ONE}},
        {"estimator": fb.normalised(inner=ONE)},
        {"estimator": ONE, "feedback": fb.ef21()},
    ],
)
def test_vectors_are_refused_before_anything_starts(settings):
    """Kills: a check that comes after the first round."""
    with pytest.raises(ValueError, match="they send vectors: use two_point or forward_gradient"):
        FedBias(LINE, broadcast="seeds", **settings)
    FedBias(LINE, broadcast="model", **settings)


def test_buffers_are_refused_before_anything_starts():
    """Seeds do not tell them. Kills: a client whose BatchNorm is never set."""
    grid = grid_of(LOSSES)
    buffers = ArrayRecord({"mean": Array(np.zeros(2))})
    strategy = FedBias(LINE, ONE, broadcast="seeds")
    with pytest.raises(ValueError, match="this model has buffers besides: use broadcast='model'"):
        train(strategy, grid, np.zeros(DIM), 2, initial_buffers=buffers)
    assert grid.sent == []


def test_a_machine_with_another_generator_is_turned_away(warned):
    """It would rebuild other directions. Kills: a copy that is silently another model."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        if message.metadata.message_type != "query.hello" or context.node_id != 2:
            return reply
        told = json.loads(reply.content["fedbias"]["header"]) | {"fingerprint": "0" * 16}
        record = ConfigRecord({"header": json.dumps(told)})
        return Message(RecordDict({"fedbias": record}), reply_to=message)

    grid = Watched(app_of(LOSSES, [mod]), CLIENTS)
    strategy = FedBias(LINE, ONE, broadcast="seeds", minimum_clients=CLIENTS - 1, seed=6)
    run = train(strategy, grid, np.zeros(DIM), 3)
    assert warned() == [
        "node 2 cannot take part: client 1 draws other random numbers: use the same numpy version"
    ]
    loop = fb.run(
        *(LOSSES, LINE, np.zeros(DIM), 3),
        estimator=ONE,
        participation=lambda k: [0, 2, 3, 4, 5],
        seed=6,
    )
    assert run.points.tobytes() == loop.points.tobytes()


def test_a_late_message_does_not_spoil_the_copy():
    """The plan of round 2 comes again after round 5. Kills: a copy that says it is of a round that
    it is not, and then takes the wrong steps.
    """
    grid = grid_of(LOSSES)
    strategy = FedBias(LINE, ONE, broadcast="seeds", minimum_clients=6, seed=6)
    late = []

    def again(record, checkpoint):
        if record.round == 5:
            message = next(m for m, _ in grid.sent if told_of(m) == (2, 1))
            late.append(grid._app(message, grid.contexts[2]))

    def told_of(message):
        if message.metadata.message_type != "train":
            return None
        header = json.loads(message.content["fedbias"]["header"])
        return header["round"], header["client"]

    strategy.start(grid, named(np.zeros(DIM)), 8, on_round=again)
    assert late[0].error.code == LOST_MODEL
    loop = fb.run(*(LOSSES, LINE, np.zeros(DIM), 8), estimator=ONE, seed=6)
    assert strategy.state.point.tobytes() == loop.points[-1].tobytes()


def test_what_is_sent_is_a_replica():
    """The records are those that fedbias.replica reads. Kills: a format of its own."""
    talk = Talk()
    (whole,) = talk.broadcast.packets(talk.state, [0]).values()
    replica = caught_up(whole, None)
    assert replica.round == 0 and replica.point.tobytes() == talk.state.point.tobytes()
    talk.round(0)
    (packet,) = packets_of(1)
    talk.state = replace(talk.state, point=-0.01 * fb.decode(packet))
    (steps,) = talk.broadcast.packets(talk.state, [0]).values()
    assert "steps" in steps and "point" not in steps
    moved = caught_up(steps, replica)
    assert moved.round == 1 and moved.point.tobytes() == talk.state.point.tobytes()
