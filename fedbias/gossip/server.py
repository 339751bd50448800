"""The server's side of a decentralized round: plan, validate, match, relay."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fedbias.compressors import identity
from fedbias.directions import check_directions
from fedbias.feedback import moved
from fedbias.ledger import NEVER
from fedbias.packets import Packet
from fedbias.rounds import Report
from fedbias.state import Outcome
from fedbias.sums import finite, opened
from fedbias.vectors import Vector

from .algorithm import GossipAlgorithm
from .plan import GossipPlan

T = TypeVar("T")


@dataclass(frozen=True)
class GossipState:
    """All that changes on the server.

    Attributes
    ----------
    entry : ndarray, shape (dim,)
        Where a client begins that has no model: a newcomer, or one that lost what it had.
    starts : mapping of int to ndarray
        X_i of the clients that were to begin elsewhere, before ``entry`` moved, and have not yet.
    round : int
        The next round to plan.
    acknowledged : mapping of int to int
        For each client the round of its last applied report.
    relays : mapping of int to Packet
        For each client what its partner sent in that round, until it has acted on it.
    memories : mapping of int to ndarray
        v_m of each client, where the feedback sends changes.
    enrolled : mapping of int to int
        Client → examples, of everyone who ever could take part; the matching is drawn among them.
    samples : int
        Examples that all applied estimates were made of.
    """

    entry: Vector
    round: int = 0
    acknowledged: Mapping[int, int] = field(default_factory=dict)
    relays: Mapping[int, Packet] = field(default_factory=dict)
    memories: Mapping[int, Vector] = field(default_factory=dict)
    enrolled: Mapping[int, int] = field(default_factory=dict)
    samples: int = 0
    starts: Mapping[int, Vector] = field(default_factory=dict)


def asked(algorithm: GossipAlgorithm, state: GossipState) -> list[int]:
    """The clients that take a step in the state's round."""
    if algorithm.matching.everyone_moves:
        return sorted(state.enrolled)
    return sorted(client for pair in pairs_of(algorithm, state) for client in pair)


def pairs_of(algorithm: GossipAlgorithm, state: GossipState) -> list[tuple[int, int]]:
    """The round's pairs, whether or not they can meet."""
    return algorithm.matching.pairs(algorithm.seed, state.round, state.enrolled)


def plan_for(
    algorithm: GossipAlgorithm, state: GossipState, client: int, begun: bool = False
) -> GossipPlan:
    """What this client is asked in the state's round; ``begun`` if it has a model in any case."""
    return GossipPlan(
        round=state.round,
        seed=algorithm.seed,
        client=client,
        acknowledged=state.acknowledged.get(client, NEVER),
        estimator=algorithm.estimator,
        batch_size=algorithm.batch_size,
        step_size=algorithm.step_size * algorithm.decay.factor(state.samples),
        mixing=algorithm.mixing,
        compressor=algorithm.compressor,
        feedback=algorithm.feedback,
        partner=state.relays.get(client),
        model=None if begun or client in state.acknowledged else start_of(state, client),
    )


def start_of(state: GossipState, client: int) -> Vector:
    """X_i of a client whose first step was not applied yet."""
    return state.starts.get(client, state.entry)


def enter(state: GossipState, entry: Vector, again: Iterable[int] = ()) -> GossipState:
    """The state in which newcomers begin there, and those that do so ``again``.

    Who was to begin elsewhere, and has not yet, still does.
    """
    waiting = set(state.enrolled).difference(state.acknowledged, again)
    starts = {client: start_of(state, client) for client in sorted(waiting)}
    return replace(state, entry=entry, starts=starts)


def apply(
    algorithm: GossipAlgorithm, state: GossipState, reports: Iterable[Report]
) -> tuple[GossipState, Outcome]:
    """Turn the models that arrived into the next state: what each pair has to tell each other.

    A report that is not valid is refused. Whose partner's report is missing keeps its own model.
    """
    valid, refused, memories = _valid(algorithm, state, reports)
    met = [pair for pair in pairs_of(algorithm, state) if set(pair) <= set(valid)]
    partner = dict(met) | {second: first for first, second in met}
    sent = {client: _sent(report, memories.get(client)) for client, report in valid.items()}
    relays = {client: sent[partner[client]] for client in valid if client in partner}
    kinds = algorithm.estimator.kinds
    samples = {
        client: kinds[r.kind].samples(
            algorithm.batch_size if kinds[r.kind].draws_batches else None, r.examples
        )
        for client, r in valid.items()
    }
    waiting = {client: relay for client, relay in state.relays.items() if client not in valid}
    following = replace(
        state,
        round=state.round + 1,
        acknowledged={**state.acknowledged, **dict.fromkeys(valid, state.round)},
        relays=waiting | relays,
        memories=memories,
        samples=state.samples + sum(samples.values()),
        starts=_without(valid, state.starts),
    )
    reported = valid.values()
    return following, Outcome(
        applied=tuple(valid),
        received=len(valid),
        refused=refused,
        loss=sum(r.loss for r in reported) / len(valid) if valid else float("nan"),
        payload_bits=sum(r.packet.payload_bits for r in reported),
        wire_bits=sum(8 * r.uplink_bytes for r in reported),
        batch_size=algorithm.batch_size,
        samples=sum(samples.values()),
        computed=sum(r.computed for r in reported),
        dropped=sum(r.dropped for r in reported),
        pairs=tuple(met),
    )


def forget(state: GossipState, clients: Iterable[int]) -> GossipState:
    """The state without what these clients had: they lost it, and begin again."""
    gone = set(clients)
    return replace(
        state,
        acknowledged=_without(gone, state.acknowledged),
        relays=_without(gone, state.relays),
        memories=_without(gone, state.memories),
        starts=_without(gone, state.starts),
    )


def _without(gone: Container[int], kept: Mapping[int, T]) -> dict[int, T]:
    return {client: known for client, known in kept.items() if client not in gone}


def _valid(
    algorithm: GossipAlgorithm, state: GossipState, reports: Iterable[Report]
) -> tuple[dict[int, Report], dict[int, str], dict[int, Vector]]:
    """The valid reports in client order, why others are not, and v_m where it is kept."""
    valid, refused = dict[int, Report](), dict[int, str]()
    memories = dict(state.memories)
    for report in sorted(reports, key=lambda report: report.client):
        client = report.client
        try:
            if client in valid:
                raise ValueError(f"client {client} reported twice in round {state.round}")
            if report.kind not in algorithm.estimator.kinds:
                raise ValueError(
                    f"nobody was asked for an estimate of the kind {report.kind[:60]!r}"
                )
            check_directions(report.packet, 0)  # a model is no combination of them
            vector, _ = opened(report, state.round, state.entry, None, None)
            if algorithm.feedback.remembers:
                memories[client] = finite(moved(state.memories.get(client), vector))
        except ValueError as reason:
            refused[client] = str(reason)
            continue
        valid[client] = report
    return valid, refused, memories


def _sent(report: Report, known: Vector | None) -> Packet:
    """What a partner is told: the packet itself, or all of v_m where it is only a change of it."""
    return report.packet if known is None else identity().encode(known)
