"""A federation over Flower that is small enough to be looked into."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message

from clients import NumpyObjective, client_app
from clients.app import client_number
from simulations import InlineGrid
from strategies import FedBias


def app_of(objectives, mods=None):
    """A ClientApp in which a client's number chooses its objective."""
    return client_app(lambda context: objectives[client_number(context)[0]], mods)


def slopes(*vectors, sizes=None, losses=None, dtype=np.float64):
    """One client per vector, which is its gradient everywhere; its loss is a constant too."""

    def one(vector, size, loss):
        return NumpyObjective(
            lambda x, b: loss,
            lambda x, b: np.array(vector, dtype),
            dim=len(vector),
            size=size,
        )

    sizes, losses = sizes or [1] * len(vectors), losses or [0.0] * len(vectors)
    return [one(*each) for each in zip(vectors, sizes, losses, strict=True)]


def named(vector, name="w"):
    """A vector as Flower's arrays."""
    return ArrayRecord({name: Array(vector)})


class Watched(InlineGrid):
    """Keeps the messages of every round, and may answer in their clients' place.

    ``intercept`` maps (round, client) or client to a function (message, reply) → list of replies.
    """

    def __init__(self, app, clients, node_config=None, intercept=None, **options):
        super().__init__(app, clients, node_config, **options)
        self.intercept = intercept or {}
        self.sent: list[tuple[Message, Message]] = []

    def push_messages(self, messages):
        pushed = list(messages)
        ids = list(super().push_messages(pushed))
        for message, key in zip(pushed, ids, strict=True):
            reply = self._replies[key]
            self.sent.append((message, reply))
            if message.metadata.message_type.startswith("train"):
                plan = json.loads(message.content["fedbias"]["header"])
                where = (plan["round"], plan["client"])
                change = self.intercept.get(where) or self.intercept.get(plan["client"])
                if change:
                    self._replies[key] = change(message, reply)
        return ids

    def pull_messages(self, message_ids):
        found = super().pull_messages(message_ids)
        return [m for each in found for m in (each if isinstance(each, list) else [each])]

    def asked(self, kind="train"):
        """(round, client) of every plan sent, in order; or the nodes asked for another kind."""
        pairs = [message for message, _ in self.sent if message.metadata.message_type == kind]
        if not kind.startswith("train"):
            return [message.metadata.dst_node_id for message in pairs]
        plans = [json.loads(message.content["fedbias"]["header"]) for message in pairs]
        return [(plan["round"], plan["client"]) for plan in plans]


class Coming(Watched):
    """A grid whose nodes of some clients are not there at times."""

    def __init__(self, *args, away=(), **options):
        super().__init__(*args, **options)
        self.away = set(away)

    def get_node_ids(self):
        return [node for node in super().get_node_ids() if node - 1 not in self.away]


@dataclass
class Trained:
    """All that a run leaves behind."""

    strategy: FedBias
    result: Any
    records: list
    checkpoints: list

    @property
    def points(self):
        """x_0 … x_K."""
        return np.stack([checkpoint.state.point for checkpoint in self.checkpoints])

    @property
    def point(self):
        """x_K."""
        return self.strategy.state.point


def train(strategy, grid, start, rounds, **options):
    """Start a strategy and keep what on_round is told."""
    records, checkpoints = [], []

    def keep(record, checkpoint):
        records.append(record)
        checkpoints.append(checkpoint)

    arrays = start if isinstance(start, ArrayRecord) else named(start)
    result = strategy.start(grid, arrays, rounds, on_round=keep, **options)
    return Trained(strategy, result, records, checkpoints)
