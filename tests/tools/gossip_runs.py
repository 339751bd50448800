"""Decentralized runs over Flower, beside the loop that they must reproduce."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import MetricRecord

import fedbias as fb
from clients.memory import load_ledger
from fedbias.gossip import start_of
from fedbias.gossip.client import MODEL, settled
from fedbias.ledger import NEVER
from strategies import Gossip
from tests.tools.exactly_once import bits
from tests.tools.federation import named


@dataclass
class Gossiped:
    """All that a run leaves behind."""

    strategy: Gossip
    result: Any
    records: list
    checkpoints: list
    means: dict  # round → what was evaluated

    @property
    def state(self):
        return self.strategy.state


def gossip(strategy, grid, start, rounds, objectives, watch=None, **options):
    """Start a strategy; f(μ) is evaluated as the loop does, and ``watch`` is told of each round."""
    records, checkpoints, means = [], [], {}

    def evaluate(number, arrays):
        (array,) = arrays.values()
        point = means[number] = array.numpy()
        loss = sum(objective.loss(point) for objective in objectives) / len(objectives)
        return MetricRecord({"loss": loss})

    def keep(record, checkpoint):
        records.append(record)
        checkpoints.append(checkpoint)
        if watch:
            watch(record, checkpoint)

    options = {"evaluate_fn": evaluate, "on_round": keep} | options
    result = strategy.start(grid, named(start), rounds, **options)
    return Gossiped(strategy, result, records, checkpoints, means)


def memories(strategy, contexts):
    """What each client of the state remembers, as bytes, once its last step is settled."""
    state, mixing = strategy.state, strategy.algorithm.mixing
    found = {}
    for context in contexts.values():
        client = context.node_config["partition-id"]
        acknowledged = state.acknowledged.get(client, NEVER)
        ledger = load_ledger(context)
        memory = settled(ledger, acknowledged, state.relays.get(client), mixing).memory
        found[client] = bits(memory or {MODEL: start_of(state, client)})
    return found


def same_as_the_loop(run, history, contexts, every=1):
    """Models, means, spreads, losses, bits, and what was counted, all of them bit for bit.

    Of the start alone Flower has the exact mean, and the loop one that was summed up.
    """
    last = len(history.outcomes)
    assert [record.round for record in run.records] == list(range(last + 1))
    for k in range(1, last + 1):
        record, outcome = run.records[k], history.outcomes[k - 1]
        due = k % every == 0 or k == last
        assert (k in run.means) == due
        if due:
            assert run.means[k].tobytes() == history.points[k].tobytes()
            assert record.spread == history.spreads[k] and record.test_loss == history.losses[k]
            assert record.models == len(history.memories)
        else:
            assert record.spread is record.test_loss is record.models is None
            assert record.evaluation_bytes is None
        assert 8 * record.uplink_bytes == history.wire_bits[k - 1]
        assert record.pairs == len(outcome.pairs) and record.applied == len(outcome.applied)
        assert record.train_loss == outcome.loss or not outcome.applied
        assert (record.samples, record.computed) == (outcome.samples, outcome.computed)
        assert (record.dropped, record.batch_size) == (outcome.dropped, outcome.batch_size)
    remembered = memories(run.strategy, contexts)
    assert [remembered[c] for c in sorted(remembered)] == [bits(m) for m in history.memories]
    (array,) = run.result.arrays.values()
    assert array.numpy().tobytes() == history.points[-1].tobytes()
    assert run.records[0].spread == 0 and np.isfinite(history.spreads).all()


def loop(objectives, start, rounds, **settings):
    """``fb.run_gossip`` from one start for all."""
    return fb.run_gossip(objectives, [start] * len(objectives), rounds, **settings)
