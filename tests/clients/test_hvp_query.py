"""A client's answer to query.hvp: a product at a point that it was sent once, and keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import given

import fedbias as fb
from clients import NumpyObjective, client_app
from fedbias.algorithm import Algorithm
from fedbias.ledger import LOST_MODEL
from fedbias.packets import PacketError
from fedbias.rounds import dense, dense_vector
from fedbias.server import plan_for
from fedbias.sharpness import HvpQuery, checksum
from fedbias.state import ServerState
from tests.tools.messages import JSON, NOT_WHOLE, altered, same
from tests.tools.surveys import Followed, logistic

OBJECTIVE = logistic(30)[0]
POINT = np.linspace(-1, 1, OBJECTIVE.dim)
VECTOR = np.cos(np.arange(OBJECTIVE.dim))
QUERY = HvpQuery(4, 7, 3, VECTOR, checksum(POINT), POINT)
SHORT = replace(QUERY, point=None)


class Client:
    """A node with number 4, asked by messages."""

    def __init__(self, objective=OBJECTIVE):
        self.app = client_app(lambda context: objective)
        self.context = Context(1, 11, {"partition-id": 4}, RecordDict(), {})

    def ask(self, query, kind="query.hvp"):
        record = query if isinstance(query, dict) else query.to_record()
        content = RecordDict({"fedbias": ConfigRecord(record)})
        return self.app(Message(content, 11, kind, group_id="1"), self.context)

    def product(self, query):
        reply = self.ask(query)
        assert not reply.has_error(), reply.error
        record = dict(reply.content["fedbias"])
        assert list(record) == ["product"]
        return dense_vector(record, "product")

    def refusal(self, query):
        reply = self.ask(query)
        assert reply.has_error()
        return reply.error.code, reply.error.reason

    def train(self, round=0):
        state = ServerState(POINT, round=round)
        plan = plan_for(Algorithm(fb.gradient_descent(0.1)), state, 4)
        assert not self.ask(plan, "train").has_error()

    @property
    def held(self):
        return [name for name in self.context.state if "sharpness" in name]


# The query ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [QUERY, SHORT], ids=["with the point", "without"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back(query, dtype):
    """Bit for bit. Kills: a field left out, a point that is made up."""
    query = replace(query, vector=query.vector.astype(dtype))
    if query.point is not None:
        point = query.point.astype(dtype)
        query = replace(query, point=point, check=checksum(point))
    record = query.to_record()
    assert set(record) == {"header", "vector"} | ({"point"} if query.point is not None else set())
    assert record["header"] == query.header()
    assert len(record["vector"]) == 14 + VECTOR.size * np.dtype(dtype).itemsize
    same(HvpQuery.from_record(record), query)


@pytest.mark.parametrize("value", [0, 1, None, "true", []])
def test_the_last_one_is_a_truth_value(value):
    """Kills: a field that nothing checks."""
    assert HvpQuery.from_record(altered(SHORT, last=True)).last
    with pytest.raises(ValueError, match="the header's last"):
        HvpQuery.from_record(altered(SHORT, last=value))


@pytest.mark.parametrize("field", ["client", "round", "seed", "check"])
@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_a_header_that_is_none(field, value):
    """Kills: a field that nothing checks."""
    with pytest.raises(ValueError, match="the header"):
        HvpQuery.from_record(altered(SHORT, **{field: value}))


def test_a_header_has_these_fields_and_no_others():
    """Kills: fields that are ignored."""
    with pytest.raises(ValueError, match="must have the fields client, round, seed, check"):
        HvpQuery.from_record(altered(SHORT, more=1))


@given(JSON)
def test_any_json_is_refused_in_a_sentence(value):
    """Kills: a traceback for a header that is no object."""
    with pytest.raises(ValueError):
        HvpQuery.from_record(SHORT.to_record() | {"header": json.dumps(value)})


@pytest.mark.parametrize("name", ["vector", "point"])
@pytest.mark.parametrize(
    "data",
    [b"", b"PK", bytes(fb.top_k(0.5).encode(VECTOR)), "text", dense(VECTOR)[:-1]],
    ids=range(5),
)
def test_packets_that_are_none(name, data):
    """Kills: a compressed vector, whose few bytes would ask for much memory."""
    with pytest.raises(PacketError):
        HvpQuery.from_record(QUERY.to_record() | {name: data})


def test_a_point_that_the_header_does_not_mean():
    """Kills: a check of nothing."""
    other = QUERY.to_record() | {"point": dense(np.nextafter(POINT, 9))}
    with pytest.raises(PacketError, match="not the one that its header means"):
        HvpQuery.from_record(other)
    assert checksum(POINT) == checksum(POINT.copy()) != checksum(POINT.astype(np.float32))


# The answer ---------------------------------------------------------------------------------------


def test_the_product_by_hand():
    """Without and with the point. Kills: another client's part of the data, the gradient."""
    client = Client()
    exact = OBJECTIVE.hvp(POINT, VECTOR)
    assert client.product(QUERY).tobytes() == exact.tobytes()
    other = replace(SHORT, vector=np.sin(VECTOR))
    assert client.product(other).tobytes() == OBJECTIVE.hvp(POINT, np.sin(VECTOR)).tobytes()


def test_it_is_on_all_the_data():
    """Kills: a product of a batch."""
    followed = Followed(OBJECTIVE)
    Client(followed).product(QUERY)
    ((point, vector, _),) = followed.products
    assert point.tobytes() == POINT.tobytes() and vector.tobytes() == VECTOR.tobytes()


def test_a_repeated_query_has_the_same_answer():
    """Kills: an answer that changes what comes after it."""
    client = Client()
    answers = {client.product(query).tobytes() for query in (QUERY, QUERY, SHORT, SHORT, QUERY)}
    assert len(answers) == 1 and len(client.held) == 1


def test_who_has_not_got_the_point_says_so():
    """With the code that the server knows. Kills: a product somewhere else, a plain refusal."""
    client = Client()
    lost = LOST_MODEL, "this client does not have the point that the products are asked at"
    assert client.refusal(SHORT) == lost
    client.product(QUERY)
    assert client.refusal(replace(SHORT, check=SHORT.check ^ 1)) == lost  # another round's
    client.product(SHORT)
    client.context.state = RecordDict()
    assert client.refusal(SHORT) == lost
    assert client.product(QUERY).tobytes() == OBJECTIVE.hvp(POINT, VECTOR).tobytes()


def test_a_newer_point_takes_the_place_of_the_old_one():
    """Kills: a point for each round, kept for good."""
    client, point = Client(), POINT / 3
    client.product(QUERY)
    client.product(replace(QUERY, point=point, check=checksum(point), round=8))
    assert len(client.held) == 1
    assert client.refusal(SHORT)[0] == LOST_MODEL
    after = client.product(replace(SHORT, check=checksum(point)))
    assert after.tobytes() == OBJECTIVE.hvp(point, VECTOR).tobytes()


def test_the_last_product_lets_go_of_the_point():
    """Also where it brings the point itself, or comes twice. Kills: a model's worth of memory for
    the rest of the run.
    """
    client, exact = Client(), OBJECTIVE.hvp(POINT, VECTOR).tobytes()
    client.product(QUERY)
    client.product(SHORT)
    assert len(client.held) == 1
    assert client.product(replace(SHORT, last=True)).tobytes() == exact
    assert client.held == []
    assert client.refusal(replace(SHORT, last=True))[0] == LOST_MODEL
    assert client.product(replace(QUERY, last=True)).tobytes() == exact
    assert client.held == []
    client.product(QUERY)
    client.product(replace(QUERY, last=True))
    assert client.held == []


def test_a_product_does_not_touch_the_training():
    """Kills: a query that settles the last report, or drops it."""
    ledgers = []
    for asked in (False, True):
        client = Client()
        client.train()
        if asked:
            client.product(QUERY)
            client.product(replace(SHORT, last=True))
        client.train(1)
        state = client.context.state
        ledgers.append((sorted(state), dict(state["fedbias.ledger"])))
    assert ledgers[0] == ledgers[1]


def test_draws_are_those_of_the_round():
    """An objective that draws (dropout) draws the same for all the products of a round. Kills: a
    Hessian that changes under Lanczos.
    """
    keys = []

    class Drawing(Followed):
        draw_key = None

        def hvp(self, point, vector):
            keys.append(self.draw_key)
            return super().hvp(point, vector)

    client = Client(Drawing(OBJECTIVE))
    client.product(QUERY)
    client.product(SHORT)
    assert keys == [(3, 7, 4)] * 2  # seed, round, client


# Refused ------------------------------------------------------------------------------------------


def plain(**capabilities):
    return NumpyObjective(OBJECTIVE.loss, OBJECTIVE.gradient, **capabilities, dim=7, size=30)


@pytest.mark.parametrize(
    ("objective", "query", "sentence"),
    [
        (plain(), QUERY, "the sharpness needs "),
        (OBJECTIVE, replace(QUERY, client=5), "the plan is for client 5, this is client 4"),
        (
            OBJECTIVE,
            replace(QUERY, point=POINT[:-1], check=checksum(POINT[:-1])),
            "point and vector have dim 6 and 7, not 7",
        ),
        (OBJECTIVE, replace(QUERY, vector=VECTOR[:5]), "point and vector have dim 7 and 5, not 7"),
        (
            OBJECTIVE,
            replace(QUERY, vector=VECTOR.astype(np.float32)),
            "the vector is float32, and the point float64",
        ),
        (
            plain(hvp=lambda x, v, b: v[:3]),
            QUERY,
            "hvp gives float64 of shape (3,), not float64 of (7,)",
        ),
        (
            plain(hvp=lambda x, v, b: v.astype(np.float32)),
            QUERY,
            "hvp gives float32 of shape (7,), not float64 of (7,)",
        ),
        (OBJECTIVE, {"header": "{}"}, "the header must have the fields client, round, seed, check"),
        (OBJECTIVE, {}, "the record has no JSON header"),
    ],
    ids=[
        "no products",
        "another client",
        "a point too short",
        "a vector too short",
        "a vector of another dtype",
        "a product too short",
        "a product of another dtype",
        "no header",
        "nothing",
    ],
)
def test_what_is_refused(objective, query, sentence):
    """With a sentence and the code of a refusal; nothing of it stays. Kills: a traceback, a check
    left out, a point that is kept though it fits nothing.
    """
    client = Client(objective)
    code, reason = client.refusal(query)
    assert code == 2 and reason.startswith(sentence)
    assert client.held == []


@pytest.mark.parametrize("wrong", [np.nan, 1e308])
def test_a_product_that_is_not_finite_is_not_sent(wrong):
    """In words. Kills: a warning from numpy, which ends the tests and fills a client's log."""
    client = Client(plain(hvp=lambda x, v, b: wrong * (10 + v)))
    assert client.refusal(QUERY) == (2, "7 of 7 entries are NaN or infinite")
