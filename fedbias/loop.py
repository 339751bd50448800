"""A whole federation as one readable loop. The Flower edges must reproduce it bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fedbias import checks
from fedbias.algorithm import Algorithm
from fedbias.batching import BatchSize
from fedbias.client import respond
from fedbias.compressors import Compressor, identity
from fedbias.compressors.base import check_vector
from fedbias.decay import Decay, no_decay
from fedbias.estimators import Estimator, as_estimator, exact
from fedbias.feedback import Feedback, no_feedback
from fedbias.history import History
from fedbias.ledger import NEVER, Ledger, settle
from fedbias.objectives import Objective, capabilities
from fedbias.optimizers import Optimizer
from fedbias.rounds import Report
from fedbias.server import apply, plan_for
from fedbias.sharpness import (
    BySharpness,
    HvpQuery,
    Lanczos,
    NotMeasured,
    Reading,
    own_product,
    take_reading,
)
from fedbias.state import Outcome, ServerState
from fedbias.steps import steered
from fedbias.stopping import Until
from fedbias.vectors import Vector

Choice = Callable[[int], Iterable[int]]  # round → ids


def run(
    objectives: Sequence[Objective],
    optimizer: Optimizer,
    start: Vector,
    rounds: int,
    *,
    estimator: Estimator | Mapping[str, Estimator] = exact(),
    compressor: Compressor = identity(),
    feedback: Feedback = no_feedback(),
    batch_size: BatchSize | int | None = None,
    decay: Decay = no_decay(),
    participation: Choice | None = None,
    lost: Choice | None = None,
    weights: str = "uniform",
    sharpness: Lanczos | int | None = None,
    steering: BySharpness | None = None,
    stop: Until | None = None,
    on_round: Callable[[int, ServerState, Outcome], None] | None = None,
    keep: str = "all",
    measure_bias: int = 0,
    seed: int = 0,
) -> History:
    """Run a federation in this process, message by message, without any framework.

    Parameters
    ----------
    objectives : sequence of Objective
        One per client; a client's number is its index.
    optimizer : Optimizer
        The server's step.
    start : ndarray, shape (dim,)
        x_0; its dtype is the run's.
    rounds : int
        K.
    estimator : Estimator, or mapping from capability to Estimator
        What a client computes; with ``{"gradient": …, "directional": …, "loss": …}`` each takes the
        first of these that it can.
    batch_size : BatchSize, int or None
        b, or the rule that chooses it (:mod:`fedbias.batching`), for estimators that draw batches;
        None means all the data.
    decay : Decay
        How the server's step size falls with the samples.
    participation : callable, optional
        Round → ids that are asked; everyone by default.
    lost : callable, optional
        Round → ids whose reply is lost on the way.
    weights : {"uniform", "examples", "inverse_variance"}
        Uniform, or by the clients' sizes: right where f is that mean over the clients, whatever
        each holds. Inverse variance, for several kinds of estimates: each kind weighs 1/(the
        spread of its replies, averaged over earlier rounds, once two replies of each kind showed
        it). That is the mean of least variance, right where the kinds' clients draw from the SAME
        data; otherwise it leans towards the data of the precise kind, which f does not say.
    sharpness : Lanczos or int, optional
        When and how the sharpness of the mean loss is measured (n: every n rounds), over the
        clients that offer ``hvp``. Where that fails the run goes on with the last reading.
    steering : BySharpness, optional
        How the step size follows from it; the optimizer's own holds until there is a measurement.
    stop : Until, optional
        Ends the run early.
    on_round : callable, optional
        Called with (round, state after it, outcome).
    keep : {"all", "last"}
        Which points to keep.
    measure_bias : int
        In every so many rounds clients compare what they send with their exact gradient, see
        ``outcomes[k].measured``; 0 for never.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        For impossible settings, or when a client refuses its plan.
    """
    algorithm = Algorithm(
        *(optimizer, as_estimator(estimator), compressor, feedback, batch_size, weights),
        seed=seed,
        measure_bias=measure_bias,
        decay=decay,
        sharpness=sharpness,
        steering=steering,
    )
    _check(objectives, start, rounds, keep, stop)
    _check_clients(algorithm, objectives)
    if stop is not None:
        stop.check(feedback)
    if feedback.radius:
        algorithm = replace(algorithm, minimum_replies=len(objectives))  # all the identical ones
    enrolled = {client: objective.size for client, objective in enumerate(objectives)}
    began, stopped = time.monotonic(), None
    share = [float(f.size) if weights == "examples" else 1.0 for f in objectives]
    state = ServerState(start, enrolled=enrolled, buffers=getattr(objectives[0], "buffers", None))
    ledgers = [Ledger() for _ in objectives]
    points, losses = [start], [mean_loss(objectives, state, share)]
    outcomes: list[Outcome] = []
    readings: list[Reading] = []
    unmeasured: dict[int, str] = {}
    while state.round < rounds and stopped is None:
        asked = asked_of("run", participation, state.round, len(objectives))
        _check_everyone(feedback, asked, len(objectives))
        state = _surveyed(algorithm, state, objectives, readings, unmeasured)
        missing = set(lost(state.round)) if lost else set()
        reports = _answers(algorithm, state, objectives, ledgers, asked)
        arrived = [report for report in reports if report.client not in missing]
        state, outcome = apply(algorithm, state, arrived, enrolled)
        outcomes.append(outcome)
        if keep == "last":
            points.clear()
        points.append(state.point)
        losses.append(mean_loss(objectives, state, share))
        if on_round:
            on_round(state.round - 1, state, outcome)
        if stop:
            stopped = stop.reached(_measured(losses[-1], outcomes, began))
    return History(
        points=np.stack(points),
        losses=np.array(losses),
        payload_bits=np.array([outcome.payload_bits for outcome in outcomes], np.int64),
        wire_bits=np.array([outcome.wire_bits for outcome in outcomes], np.int64),
        batch_sizes=[outcome.batch_size for outcome in outcomes],
        outcomes=outcomes,
        memories=_settled(ledgers, state),
        optimizer_state=state.optimizer,
        stopped=stopped,
        readings=readings,
        unmeasured=unmeasured,
    )


def _surveyed(
    algorithm: Algorithm,
    state: ServerState,
    objectives: Sequence[Objective],
    readings: list[Reading],
    unmeasured: dict[int, str],
) -> ServerState:
    """The state that knows the sharpness at its point, if that is due; the lists are added to."""
    setting = algorithm.measuring
    if setting is None or not setting.due(state.round):
        return state
    try:
        readings.append(_reading(algorithm, setting, state, objectives))
    except NotMeasured as reason:
        unmeasured[state.round] = str(reason)
        return state
    return steered(algorithm, state, readings[-1])


def _reading(
    algorithm: Algorithm, setting: Lanczos, state: ServerState, objectives: Sequence[Objective]
) -> Reading:
    """The sharpness at the state's point (NotMeasured says which client stood in the way)."""

    def ask(queries: Sequence[HvpQuery]) -> Iterator[Vector]:
        for query in queries:
            try:
                yield own_product(objectives[query.client], query, state.point)
            except Exception as reason:  # whatever a user's objective raises: training goes on
                plain = isinstance(reason, (ValueError, ImportError, OSError))
                why = str(reason) if plain else f"{type(reason).__name__}: {reason}"
                raise NotMeasured(f"client {query.client}: {why}") from None

    able = [m for m, objective in enumerate(objectives) if "hvp" in capabilities(objective)]
    weights = {client: algorithm.weight(objectives[client].size) for client in able}
    where = (algorithm.seed, state.round, state.point)
    return take_reading(setting, *where, weights, len(objectives), ask)


def _answers(
    algorithm: Algorithm,
    state: ServerState,
    objectives: Sequence[Objective],
    ledgers: list[Ledger],
    asked: Iterable[int],
) -> list[Report]:
    """Every asked client's report; their ledgers are replaced."""
    reports = []
    for client in asked:
        plan = plan_for(algorithm, state, client)
        report, ledgers[client] = respond(objectives[client], plan, ledgers[client])
        reports.append(report)
    return reports


def _settled(ledgers: Sequence[Ledger], state: ServerState) -> list[Mapping[str, Vector]]:
    """Every client's memory, once the fate of its last report is known."""
    return [
        settle(ledger, state.acknowledged.get(client, NEVER)).memory
        for client, ledger in enumerate(ledgers)
    ]


def mean_loss(objectives: Sequence[Objective], state: ServerState, share: Sequence[float]) -> float:
    """Σ w_m f_m(x_k) / Σ w_m over all the clients, all their data, with the server's buffers."""
    total = 0.0
    for weight, objective in zip(share, objectives, strict=True):
        if state.buffers is not None:
            cast(Any, objective).buffers = state.buffers.copy()
        with np.errstate(over="ignore", invalid="ignore"):
            total += weight * objective.loss(state.point)
    return total / sum(share)


def _check(
    objectives: Sequence[Objective], start: Vector, rounds: int, keep: str, stop: Until | None
) -> None:
    checks.choice("run", "keep", keep, ("all", "last"))
    checks.whole("run", "rounds", rounds, least=0)
    if not objectives:
        raise ValueError("run: objectives must hold at least one client")
    check_vector(start)
    if empty := [client for client, objective in enumerate(objectives) if objective.size < 1]:
        raise ValueError(f"run: client {empty[0]} has no data")
    if start.size != objectives[0].dim:
        raise ValueError(f"run: start must have dim {objectives[0].dim}, not {start.size}")
    if stop is not None and stop.accuracy is not None:
        raise ValueError("run: stop.accuracy has no meaning here, objectives have losses alone")


def _check_clients(algorithm: Algorithm, objectives: Sequence[Objective]) -> None:
    rule, steering = algorithm.batching, algorithm.steering
    if rule is not None and rule.compares_clients and len(objectives) < 2:
        raise ValueError(f"run: {rule.name} compares clients and there is one: use norm_test")
    if steering is not None and not any("hvp" in capabilities(f) for f in objectives):
        raise ValueError(f"run: {steering} needs clients with Hessian-vector products: offer hvp")


def _check_everyone(feedback: Feedback, asked: Sequence[int], clients: int) -> None:
    if feedback.radius and clients > 1 and len(asked) < clients:
        raise ValueError("run: a preset radius asks all the clients in every round: radius=None")


def asked_of(owner: str, participation: Choice | None, round: int, clients: int) -> list[int]:
    """The clients that take part in a round, in ascending order (ValueError for unknown ones)."""
    asked = range(clients) if participation is None else sorted(set(participation(round)))
    if not set(asked) <= set(range(clients)):
        raise ValueError(f"{owner}: there are clients 0 … {clients - 1}, not all of {asked}")
    return list(asked)


def _measured(loss: float, outcomes: Sequence[Outcome], began: float) -> dict[str, float | None]:
    return {
        "seconds": time.monotonic() - began,
        "loss": loss,
        "gradient_norm": outcomes[-1].gradient_norm,
        "uplink_bytes": sum(outcome.wire_bits for outcome in outcomes) / 8,
        "samples": sum(outcome.samples for outcome in outcomes),
    }
