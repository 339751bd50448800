"""The server's side of a round: plan, validate, decode in client order, mean, step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedbias.algorithm import Algorithm
from fedbias.batching import next_size, own_size, size_now
from fedbias.decay import decayed
from fedbias.feedback import moved
from fedbias.ledger import NEVER
from fedbias.memories import file_rows, pooled
from fedbias.optimizers import State
from fedbias.rounds import Measured, Plan, Report
from fedbias.schedule import check_identical, counted, radius_for
from fedbias.sums import Sums, finite, opened
from fedbias.vectors import Vector, norm, squared_norm


@dataclass(frozen=True)
class ServerState:
    """All that changes on the server.

    Attributes
    ----------
    round : int
        k, the next round to plan.
    point : ndarray, shape (dim,)
        x_k.
    optimizer : mapping of str to ndarray
    acknowledged : mapping of int to int
        For each client the round of its last applied report.
    counts : mapping of int to int
        For each client its applied reports, since it last lost its memory: the place in a preset
        schedule.
    memories : mapping of int to ndarray
        h_m of each client that was applied, where the feedback keeps it.
    enrolled : mapping of int to int
        Client → examples, of everyone who ever could take part.
    batch_size : int or None
        b of the round to plan; None before a rule chose one.
    samples : int
        Examples that all applied estimates were made of.
    buffers : ndarray or None
        The clients' mean of what training changes besides the point.
    """

    point: Vector
    round: int = 0
    optimizer: State = field(default_factory=dict)
    acknowledged: Mapping[int, int] = field(default_factory=dict)
    counts: Mapping[int, int] = field(default_factory=dict)
    memories: Mapping[int, Vector] = field(default_factory=dict)
    enrolled: Mapping[int, int] = field(default_factory=dict)
    batch_size: int | None = None
    samples: int = 0
    buffers: Vector | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one round's reports.

    Attributes
    ----------
    applied : tuple of int
        The clients whose reports moved the model, in order; empty if too few were valid.
    received : int
        Valid reports, whether or not there were enough of them.
    refused : mapping of int to str
        Client → why its report was refused.
    forgotten : tuple of int
        The applied clients that had lost their memory.
    saturated : tuple of int
        The applied clients whose vector was longer than its preset radius.
    loss : float
        The weighted mean of the clients' losses at x_k; NaN without any.
    gradient_norm : float
        ‖ĝ‖ of the decoded mean; NaN without any.
    payload_bits, wire_bits : int
        Of all the valid packets received.
    batch_size : int or None
        b that the round's plans asked for; clients with less data took less.
    samples : int
        Examples that the applied estimates were made of.
    wanted : float
        The next b that a batch-size test asked for, before its limits; NaN without one, or where it
        is not defined.
    computed : int
        Example gradients that the applied clients computed.
    measured : Measured or None
        The weighted means over the applied clients that measured. If they are all the clients
        there are, they are at least ‖b_k‖² and ‖∇f(x_k)‖² of the averaged estimate (Jensen), and
        equal to them for clients that are alike. Otherwise b_k holds the error of the sample too,
        which no client sees.
    """

    applied: tuple[int, ...] = ()
    received: int = 0
    refused: Mapping[int, str] = field(default_factory=dict)
    forgotten: tuple[int, ...] = ()
    saturated: tuple[int, ...] = ()
    loss: float = float("nan")
    gradient_norm: float = float("nan")
    payload_bits: int = 0
    wire_bits: int = 0
    batch_size: int | None = None
    samples: int = 0
    wanted: float = float("nan")
    computed: int = 0
    measured: Measured | None = None


def plan_for(algorithm: Algorithm, state: ServerState, client: int) -> Plan:
    """What this client is asked in the state's round."""
    rule = algorithm.batching
    return Plan(
        round=state.round,
        seed=algorithm.seed,
        client=client,
        acknowledged=state.acknowledged.get(client, NEVER),
        estimator=algorithm.estimator,
        batch_size=own_size(rule, state.batch_size, state.enrolled, client),
        measure=rule if rule is not None and rule.measures else None,
        compressor=algorithm.compressor,
        feedback=algorithm.feedback,
        point=state.point,
        buffers=state.buffers,
        shift=algorithm.optimizer if algorithm.feedback.shifts else None,
        radius=_radius(algorithm, state, client),
        measure_bias=algorithm.measure_bias > 0 and state.round % algorithm.measure_bias == 0,
    )


def apply(
    algorithm: Algorithm,
    state: ServerState,
    reports: Iterable[Report],
    enrolled: Mapping[int, int] | None = None,
) -> tuple[ServerState, Outcome]:
    """Turn the reports of a round into the next state.

    Reports are decoded one at a time in ascending client order into one accumulator, so the result
    does not depend on the order of arrival and O(dim) memory is enough, but for feedback that
    remembers h_m. A report with the wrong round, length, a number that is not finite, or a client's
    second one is refused; the round goes on without it. If fewer than ``minimum_replies`` remain,
    only the round counter moves.

    Parameters
    ----------
    enrolled : mapping of int to int, optional
        Client → examples, of those that could have been asked; the state keeps them. ef21 steps
        along the mean h_m of everyone who ever could have been.

    Returns
    -------
    state : ServerState
    outcome : Outcome

    Raises
    ------
    ValueError
        If the radius is preset and the clients are not identical, or did not all take part.
    """
    sums, changed = _gathered(algorithm, state, reports)
    applied, refused = sums.applied, sums.refused
    received = Outcome(
        batch_size=size_now(algorithm.batching, state.batch_size, state.enrolled),
        received=len(applied),
        refused=refused,
        payload_bits=sum(report.packet.payload_bits for report in applied.values()),
        wire_bits=sum(8 * report.uplink_bytes for report in applied.values()),
    )
    met = {**state.enrolled, **(enrolled or {})}
    untouched = replace(state, round=state.round + 1, enrolled=met)
    if len(applied) < algorithm.minimum_replies:
        return untouched, received
    memories = {**state.memories, **changed}
    everyone = met | {client: report.examples for client, report in applied.items()}
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        mean = sums.vector / sums.mass
        if algorithm.feedback.pooled:
            weights = {client: _weight(algorithm, size) for client, size in everyone.items()}
            mean = pooled(memories, weights, state.point)
        buffers = None if sums.buffers is None else sums.buffers / sums.mass
        samples = state.samples + sum(report.samples for report in applied.values())
        step = decayed(algorithm.optimizer, algorithm.decay, samples)
        point, optimizer = step.update(state.point, mean, state.optimizer)
    parts = [mean, point, *optimizer.values(), *([] if buffers is None else [buffers])]
    if not all(np.isfinite(part).all() for part in parts):
        why = f"the round's step leaves the range of {point.dtype}: the run diverges"
        return untouched, replace(received, refused=refused | dict.fromkeys(applied, why))
    evidence = sums.evidence(squared_norm(mean), samples)
    batch_size, wanted = next_size(algorithm.batching, received.batch_size, evidence)
    moved_on = replace(
        untouched,
        point=point,
        optimizer=optimizer,
        acknowledged={**state.acknowledged, **dict.fromkeys(applied, state.round)},
        counts=counted(algorithm, state.counts, applied),
        memories=memories,
        enrolled=everyone,
        batch_size=batch_size,
        samples=samples,
        buffers=buffers,
    )
    return moved_on, replace(
        received,
        applied=tuple(applied),
        forgotten=tuple(client for client, report in applied.items() if report.lost_memory),
        saturated=tuple(client for client, report in applied.items() if report.saturated),
        loss=sums.loss / sums.mass,
        gradient_norm=norm(mean),
        samples=samples - state.samples,
        wanted=wanted,
        computed=sum(report.computed for report in applied.values()),
        measured=sums.measured(),
    )


def _gathered(
    algorithm: Algorithm, state: ServerState, reports: Iterable[Report]
) -> tuple[Sums, dict[int, Vector]]:
    """The sums over the valid reports, and the h_m that they change."""
    sums, changed = Sums.zero(state.point, state.buffers), dict[int, Vector]()
    arrived = sorted(reports, key=lambda report: report.client)
    remembers = algorithm.feedback.remembers
    compared = algorithm.batching is not None and algorithm.batching.compares_clients
    rows = file_rows(len(arrived), state.point, len(state.memories)) if remembers else None
    for place, report in enumerate(arrived):
        client = report.client
        try:
            if client in sums.applied:
                raise ValueError(f"client {client} reported twice in round {state.round}")
            radius = _radius(algorithm, state, client)
            vector, buffers = opened(report, state.round, state.point, state.buffers, radius)
            if remembers:
                known = None if report.lost_memory else state.memories.get(client)
                vector = finite(moved(known, vector))
                if rows is not None:
                    rows[place] = vector
                changed[client] = vector if rows is None else rows[place]
        except ValueError as reason:
            sums.refused[client] = str(reason)
            continue
        sums.add(report, vector, buffers, _weight(algorithm, report.examples), compared)
    check_identical(algorithm, state.counts, sums.applied)
    return sums, changed


def _radius(algorithm: Algorithm, state: ServerState, client: int) -> float | None:
    return radius_for(algorithm, state.counts.get(client, 0), state.point)


def _weight(algorithm: Algorithm, examples: int) -> float:
    return 1.0 if algorithm.weights == "uniform" else float(examples)
