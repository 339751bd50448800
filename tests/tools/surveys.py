"""Clients whose Hessians are known, and a grid that may answer for them when they are measured."""

import json

import numpy as np
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedbias.problems import LogisticLoss, Squares
from fedbias.problems.linear import mean_hessian
from tests.tools.federation import Watched

SIZES = (12, 40, 9, 25, 14)


def logistic(*sizes, dim=7, seed=0):
    """Logistic losses, whose curvature falls as they are trained; one client per size."""
    rng = np.random.default_rng(seed)
    rows = [rng.standard_normal((size, dim)) for size in sizes]
    return [LogisticLoss(r, np.where(rng.random(len(r)) < 0.5, -1.0, 1.0), 0.01) for r in rows]


def curved(*curvatures):
    """One-dimensional clients: f_m(x) = c_m·x²/2."""
    return [Squares(np.array([[1.0]]), np.zeros(1), float(c) - 1) for c in curvatures]


def dense_hessian(objectives, point, weights=None):
    """The weighted mean Hessian, shape (dim, dim)."""
    weights = weights or [1.0] * len(objectives)
    parts = [w * mean_hessian([f], point) for w, f in zip(weights, objectives, strict=True)]
    return sum(parts) / sum(weights)


class Followed:
    """An objective that remembers every product: (point, vector, product)."""

    def __init__(self, objective):
        self.objective, self.products = objective, []

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def hvp(self, point, vector):
        product = self.objective.hvp(point, vector)
        self.products.append((point.copy(), vector.copy(), product.copy()))
        return product


class Surveyed(Watched):
    """Keeps the messages, and may change a client's answers when products are asked for.

    ``change`` maps a client to a function (number of its product from 1, message, reply) → reply.
    """

    def __init__(self, app, clients, change=None, **options):
        super().__init__(app, clients, **options)
        self.change, self._count = change or {}, {}

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        for message, key in zip([m for m, _ in self.sent][-len(ids) :], ids, strict=True):
            if message.metadata.message_type == "query.hvp":
                client = header_of(message)["client"]
                self._count[client] = self._count.get(client, 0) + 1
                if client in self.change:
                    reply = self._replies[key]
                    self._replies[key] = self.change[client](self._count[client], message, reply)
        return ids

    def queries(self):
        """(round, client, whether the point went along) of every product asked for, in order."""
        found = []
        for message, _ in self.sent:
            if message.metadata.message_type == "query.hvp":
                header = header_of(message)
                found.append((header["round"], header["client"], "point" in record_of(message)))
        return found


def record_of(message):
    return message.content["fedbias"]


def header_of(message):
    return json.loads(record_of(message)["header"])


def failing(at, reason="no memory left"):
    """An error in place of this product of the client's."""
    return lambda n, message, reply: (
        Message(Error(2, reason), reply_to=message) if n == at else reply
    )


def answering(product, at=1):
    """A packet of one's own in place of this product."""

    def change(n, message, reply):
        record = ConfigRecord({"product": product})
        return Message(RecordDict({"fedbias": record}), reply_to=message) if n == at else reply

    return change
