"""A whole decentralized federation as one readable loop; Flower must reproduce it bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from fedbias import checks
from fedbias.compressors import Compressor, identity
from fedbias.compressors.base import check_vector
from fedbias.decay import Decay, no_decay
from fedbias.estimators import Estimator, as_estimator
from fedbias.feedback import Feedback, no_feedback
from fedbias.history import History
from fedbias.ledger import NEVER, Ledger
from fedbias.loop import Choice, asked_of
from fedbias.objectives import Objective
from fedbias.state import Outcome
from fedbias.vectors import Vector

from .algorithm import GossipAlgorithm
from .client import MODEL, model_of, respond, settled
from .matchings import Matching, as_matching
from .server import GossipState, apply, asked, plan_for
from .spread import mean_and_spread


def run_gossip(
    objectives: Sequence[Objective],
    starts: Sequence[Vector],
    rounds: int,
    *,
    estimator: Estimator | Mapping[str, Estimator],
    matching: Matching | Callable[[int], Iterable[Sequence[int]]],
    step_size: float = 1.0,
    decay: Decay = no_decay(),
    compressor: Compressor = identity(),
    feedback: Feedback = no_feedback(),
    batch_size: int | None = None,
    mixing: float = 1.0,
    participation: Choice | None = None,
    lost: Choice | None = None,
    evaluate_every: int = 1,
    on_round: Callable[[int, Vector, float, Outcome], None] | None = None,
    seed: int = 0,
) -> History:
    """Run a decentralized federation in this process: own steps, then pairs average.

    Parameters
    ----------
    objectives : sequence of Objective
        One per client; a client's number is its index.
    starts : sequence of ndarray, shape (dim,)
        X_i at first, one per client; their dtype is the run's.
    rounds : int
    estimator : Estimator, or mapping from capability to Estimator
        What X' = X − η·g takes for g. ``fb.local_steps(count=1, step_size=…, momentum=…)`` gives
        each kind of client a step size and a momentum of its own.
    matching : Matching, or callable
        Who meets: ``fb.random_matching()``, ``fb.random_pair()``, ``fb.along(graph="ring")``, or a
        function from rounds to pairs.
    step_size, decay, compressor, feedback, batch_size, mixing
        See :class:`fedbias.gossip.GossipAlgorithm`.
    participation : callable, optional
        Round → ids that take a step; everyone by default. Absent partners are waited for by nobody.
    lost : callable, optional
        Round → ids whose model is lost on the way: as if they had not been asked.
    evaluate_every : int
        ``losses`` are NaN in other rounds than every so many.
    on_round : callable, optional
        Called with (round, mean model, spread, outcome).

    Returns
    -------
    History
        ``points`` are the mean models μ_k, ``losses`` f(μ_k), the uniform mean over the clients,
        and ``spreads`` Γ_k = (1/n)·Σ‖X_i − μ_k‖². ``memories[i]["gossip.model"]`` is X_i.

    Raises
    ------
    ValueError
        For impossible settings, or when a client refuses its plan.
    """
    algorithm = GossipAlgorithm(
        *(as_estimator(estimator), as_matching(matching), step_size, decay),
        compressor=compressor,
        feedback=feedback,
        batch_size=batch_size,
        mixing=mixing,
        seed=seed,
    )
    _check(objectives, starts, rounds, evaluate_every)
    state = GossipState(starts[0], enrolled={i: f.size for i, f in enumerate(objectives)})
    ledgers = [Ledger(memory={MODEL: start}) for start in starts]
    points, spreads, losses = list[Vector](), list[float](), list[float]()
    outcomes: list[Outcome] = []

    def look() -> None:
        models = [model_of(ledger) for ledger in _now(algorithm, state, ledgers)]
        mean, spread = mean_and_spread(models)
        due = state.round % evaluate_every == 0 or state.round == rounds
        points.append(mean)
        spreads.append(spread)
        losses.append(_mean_loss(objectives, mean) if due else float("nan"))

    look()
    while state.round < rounds:
        there = asked_of("run_gossip", participation, state.round, len(objectives))
        missing = set(lost(state.round)) if lost else set()
        reports = []
        for client in sorted(set(there).intersection(asked(algorithm, state))):
            plan = plan_for(algorithm, state, client, begun=True)
            report, ledgers[client] = respond(objectives[client], plan, ledgers[client])
            reports.append(report)
        state, outcome = apply(algorithm, state, [r for r in reports if r.client not in missing])
        outcomes.append(outcome)
        look()
        if on_round:
            on_round(state.round - 1, points[-1], spreads[-1], outcome)
    return History(
        points=np.stack(points),
        losses=np.array(losses),
        payload_bits=np.array([outcome.payload_bits for outcome in outcomes], np.int64),
        wire_bits=np.array([outcome.wire_bits for outcome in outcomes], np.int64),
        batch_sizes=[batch_size] * len(outcomes),
        outcomes=outcomes,
        memories=[ledger.memory for ledger in _now(algorithm, state, ledgers)],
        optimizer_state={},
        stopped=None,
        spreads=np.array(spreads),
    )


def _now(algorithm: GossipAlgorithm, state: GossipState, ledgers: Sequence[Ledger]) -> list[Ledger]:
    """Every client's ledger, once the fate of its last step is known."""
    return [
        settled(
            ledger,
            state.acknowledged.get(client, NEVER),
            state.relays.get(client),
            algorithm.mixing,
        )
        for client, ledger in enumerate(ledgers)
    ]


def _mean_loss(objectives: Sequence[Objective], point: Vector) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(objective.loss(point) for objective in objectives) / len(objectives)


def _check(
    objectives: Sequence[Objective], starts: Sequence[Vector], rounds: int, every: int
) -> None:
    checks.whole("run_gossip", "rounds", rounds, least=0)
    checks.whole("run_gossip", "evaluate_every", every, least=1)
    if not objectives or len(objectives) != len(starts):
        raise ValueError(
            f"run_gossip: {len(objectives)} objectives and {len(starts)} starts: one for each"
        )
    for client, (objective, start) in enumerate(zip(objectives, starts, strict=True)):
        check_vector(start)
        if objective.size < 1:
            raise ValueError(f"run_gossip: client {client} has no data")
        if start.size != objective.dim or start.dtype != starts[0].dtype:
            raise ValueError(
                f"run_gossip: client {client} starts with {start.size} entries of {start.dtype}, "
                f"not {objective.dim} of {starts[0].dtype}"
            )
