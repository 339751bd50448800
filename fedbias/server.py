"""The server's side of a round: plan, validate, decode in client order, mean, step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from fedbias.algorithm import Algorithm
from fedbias.batching import next_size, own_size, size_now
from fedbias.directions import check_directions
from fedbias.feedback import moved
from fedbias.kinds import Spread, precisions, remembered
from fedbias.ledger import NEVER
from fedbias.memories import file_rows, pooled
from fedbias.rounds import Plan, Report
from fedbias.schedule import check_identical, counted, radius_for
from fedbias.state import Outcome, ServerState
from fedbias.steps import step_now
from fedbias.sums import Sums, finite, opened
from fedbias.vectors import Vector, norm


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
    applied = sums.applied
    received = Outcome(
        batch_size=size_now(algorithm.batching, state.batch_size, state.enrolled),
        received=len(applied),
        refused=sums.refused,
        payload_bits=sum(report.packet.payload_bits for report in applied.values()),
        wire_bits=sum(8 * report.uplink_bytes for report in applied.values()),
    )
    met = {**state.enrolled, **(enrolled or {})}
    untouched = replace(state, round=state.round + 1, enrolled=met)
    if len(applied) < algorithm.minimum_replies:
        return untouched, received
    everyone = met | {client: report.examples for client, report in applied.items()}
    moved_on, mean = _stepped(algorithm, replace(untouched, enrolled=everyone), sums, changed)
    if mean is None:
        why = f"the round's step leaves the range of {state.point.dtype}: the run diverges"
        return untouched, replace(received, refused=sums.refused | dict.fromkeys(applied, why))
    length, limit = norm(mean), algorithm.stability
    step_size = step_now(algorithm, state, moved_on.samples).step_size
    evidence = sums.evidence(length * length, moved_on.samples, _pool(algorithm, everyone))
    batch_size, wanted = next_size(algorithm.batching, received.batch_size, evidence)
    acknowledged = replace(
        moved_on,
        acknowledged={**state.acknowledged, **dict.fromkeys(applied, state.round)},
        counts=counted(algorithm, state.counts, applied),
        batch_size=batch_size,
    )
    return acknowledged, replace(
        received,
        applied=tuple(applied),
        forgotten=tuple(client for client, report in applied.items() if report.lost_memory),
        saturated=tuple(client for client, report in applied.items() if report.saturated),
        loss=sums.loss / sums.mass,
        gradient_norm=length,
        samples=moved_on.samples - state.samples,
        wanted=wanted,
        computed=sum(report.computed for report in applied.values()),
        dropped=sum(report.dropped for report in applied.values()),
        step_size=step_size,
        stability_limit=limit / step_size if limit else math.nan,
        measured=sums.measured(),
    )


def _stepped(
    algorithm: Algorithm, state: ServerState, sums: Sums, changed: Mapping[int, Vector]
) -> tuple[ServerState, Vector | None]:
    """The state after the server's step, and ĝ; None instead where something is not finite."""
    memories = {**state.memories, **changed}
    samples = state.samples + sum(sums.samples.values())
    step = step_now(algorithm, state, samples)
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        mean = sums.vector / sums.mass
        if algorithm.feedback.pooled:
            sizes = state.enrolled.items()
            weights = {client: algorithm.weight(size) for client, size in sizes}
            mean = pooled(memories, weights, state.point)
        buffers = None if sums.buffers is None else sums.buffers / sums.mass
        point, optimizer = step.update(state.point, mean, state.optimizer)
    parts = [mean, point, *optimizer.values(), *([] if buffers is None else [buffers])]
    if not all(np.isfinite(part).all() for part in parts):
        return state, None
    moved_on = replace(
        state,
        point=point,
        optimizer=optimizer,
        memories=memories,
        samples=samples,
        variances=remembered(state.variances, sums.kinds),
        buffers=buffers,
    )
    return moved_on, mean


def _gathered(
    algorithm: Algorithm, state: ServerState, reports: Iterable[Report]
) -> tuple[Sums, dict[int, Vector]]:
    """The sums over the valid reports, and the h_m that they change."""
    sums, changed = Sums.zero(state.point, state.buffers), dict[int, Vector]()
    arrived = sorted(reports, key=lambda report: report.client)
    remembers, kinds = algorithm.feedback.remembers, algorithm.estimator.kinds
    compared = algorithm.batching is not None and algorithm.batching.compares_clients
    rows = file_rows(len(arrived), state.point, len(state.memories)) if remembers else None
    for place, report in enumerate(arrived):
        client = report.client
        try:
            if client in sums.applied:
                raise ValueError(f"client {client} reported twice in round {state.round}")
            if report.kind not in kinds:
                raise ValueError(
                    f"nobody was asked for an estimate of the kind {report.kind[:60]!r}"
                )
            check_directions(report.packet, kinds[report.kind].most_directions)
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
        (weight,) = weights_of(algorithm, state, [report])
        samples = _samples(algorithm, state, report)
        sums.add(report, vector, buffers, weight, samples, compared)
        if algorithm.weights == "inverse_variance":
            sums.kinds.setdefault(report.kind, Spread.like(vector)).add(vector)
    check_identical(algorithm, state.counts, sums.applied)
    return sums, changed


def weights_of(algorithm: Algorithm, state: ServerState, reports: Iterable[Report]) -> list[float]:
    """w_m of reports of the state's round."""
    precise = dict.fromkeys(algorithm.estimator.kinds, 1.0)
    if algorithm.weights == "inverse_variance":
        precise = precisions(state.variances, precise)
    return [precise[r.kind] * algorithm.weight(r.examples) for r in reports]


def _samples(algorithm: Algorithm, state: ServerState, report: Report) -> int:
    """Examples that a report's estimate was made of, as it was asked for."""
    estimator = algorithm.estimator.kinds[report.kind]
    size = own_size(algorithm.batching, state.batch_size, state.enrolled, report.client)
    return estimator.samples(size if estimator.draws_batches else None, report.examples)


def _radius(algorithm: Algorithm, state: ServerState, client: int) -> float | None:
    return radius_for(algorithm, state.counts.get(client, 0), state.point)


def _pool(algorithm: Algorithm, everyone: Mapping[int, int]) -> float | None:
    """Σ w_m over all the clients whose memory is in ĝ; None where only replies are."""
    if not algorithm.feedback.pooled:
        return None
    return sum(algorithm.weight(size) for size in everyone.values())
