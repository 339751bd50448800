"""Decentralized training over Flower: the clients own their models, the server relays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

import fedbias as fb
from fedbias import checks, gossip
from fedbias.estimators import as_estimator
from fedbias.gossip import GossipAlgorithm, GossipState
from fedbias.gossip.matchings import as_matching
from fedbias.stopping import Until
from fedbias.vectors import Layout, Vector, flatten, unflatten

from .arrays import arrays_of, named
from .checkpoint import Checkpoint
from .exchange import exchange
from .gossip_messages import addressed, models_in
from .journal import EvaluateFn, Journal, OnRound
from .replies import collect
from .sampling import Enrolment
from .tally import Tally

_LOG = logging.getLogger("flwr")


class Gossip(Strategy):
    """Federated training without a model on the server: :mod:`fedbias.gossip` over a Grid.

    In each round the clients take a step of their own, and matched pairs average. The server draws
    the pairs and relays what they send each other.

    Parameters
    ----------
    estimator : Estimator, or mapping from capability to Estimator
        What a client's step goes along: ``fb.local_steps(count=1, step_size=…, momentum=…)`` gives
        each kind of client a step size and a momentum of its own.
    matching : Matching, or callable
        Who meets, of all that ever enrolled: ``fb.random_matching()``, ``fb.random_pair()``,
        ``fb.along(graph="ring")``, or a function from rounds to pairs. Whose partner is away, or
        was not heard, keeps its own model in that round.
    step_size, decay, compressor, feedback, batch_size, mixing
        See :class:`fedbias.gossip.GossipAlgorithm`.
    minimum_clients : int
        Clients to wait for before the first round.
    patience : float
        Seconds to wait for them, and in later rounds for one of them (then TimeoutError).
    partitions : int, optional
        Over how many clients the data is split: nodes whose ``num-partitions`` says otherwise are
        turned away, and where somebody was and nobody else comes, the start waits no longer.
    evaluate_every : int
        Every so many rounds, and in the last one, the server fetches the models: their mean is
        evaluated, and is where newcomers begin from then on.
    stop : Until, optional
        Ends the run early; looked at in rounds that evaluate.
    seed : int
        Of every random draw, on the server and on the clients.

    Notes
    -----
    Everybody begins at the initial arrays. A client that lost its model begins again at the last
    mean, in the round after the one in which it says so. The mean leaves out clients that are away,
    and those that were refused and have taken no step so far; a record tells how many models it is
    of. It takes memory for all the models at once, as relaying them does.
    """

    def __init__(
        self,
        estimator: fb.Estimator | Mapping[str, fb.Estimator],
        matching: fb.Matching | Callable[[int], Iterable[Sequence[int]]] = fb.random_matching(),
        *,
        step_size: float = 1.0,
        decay: fb.Decay = fb.no_decay(),
        compressor: fb.Compressor = fb.identity(),
        feedback: fb.Feedback = fb.no_feedback(),
        batch_size: int | None = None,
        mixing: float = 1.0,
        minimum_clients: int = 2,
        patience: float = 300.0,
        partitions: int | None = None,
        evaluate_every: int = 1,
        stop: Until | None = None,
        seed: int = 0,
    ) -> None:
        checks.whole("Gossip", "evaluate_every", evaluate_every, least=1)
        if stop is not None:
            checks.instance("Gossip", "stop", stop, Until, "until(accuracy=0.9)")
            if stop.gradient_norm is not None:
                raise ValueError("Gossip: nobody sends gradients: stop cannot ask for their norm")
        self.enrolment = Enrolment("Gossip", minimum_clients, patience, partitions)
        self.algorithm = GossipAlgorithm(
            *(as_estimator(estimator), as_matching(matching), step_size, decay),
            compressor=compressor,
            feedback=feedback,
            batch_size=batch_size,
            mixing=mixing,
            seed=seed,
        )
        self.stop, self.evaluate_every = stop, evaluate_every
        self.stopped: str | None = None  # why the last run ended early
        self.state: GossipState | None = None
        self._tally, self._evaluation_bytes = Tally(), 0

    def summary(self) -> None:
        """Log the settings."""
        a = self.algorithm
        parts = (a.matching, a.decay, a.estimator, a.compressor, a.feedback)
        sizes = f"step size {a.step_size}, batch size {a.batch_size}, mixing {a.mixing}"
        _LOG.info("\t%s, %s", ", ".join(map(str, parts)), sizes)

    # One run ------------------------------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
        *,
        resume: Checkpoint | None = None,
        on_round: OnRound | None = None,
    ) -> Result:
        """Train for ``num_rounds`` rounds, or until ``stop`` is reached.

        Parameters
        ----------
        grid : Grid
        initial_arrays : ArrayRecord
            Where everybody begins, all of one floating dtype.
        timeout : float
            Seconds after which a missing reply counts as lost, per round and per evaluation.
        train_config, evaluate_config : ConfigRecord, optional
            Flower's; a plan carries all that clients need, so these must be empty.
        evaluate_fn : callable, optional
            (round, arrays) → MetricRecord or None: evaluation of the mean model, at the start and
            in rounds that evaluate.
        resume : Checkpoint, optional
            Where an earlier run stopped; ``initial_arrays`` then only names the parameters. The
            clients go on only where their contexts were kept, too: elsewhere they have lost their
            models, and begin at the last mean. To
            prolong a finished run is not the same as a longer run for clients that begin later:
            its last round evaluated in any case.
        on_round : callable, optional
            (record, checkpoint) after every round, and for the start with round 0.

        Returns
        -------
        flwr.serverapp.strategy.Result
            Its ``arrays`` are the mean model of the last evaluation.

        Raises
        ------
        ValueError
            If all the clients' replies of the first round are refused.
        """
        if train_config or evaluate_config:
            raise ValueError("Gossip: settings go to Gossip itself, not into train_config")
        arrays = named(initial_arrays)
        self._layout = Layout.of(arrays)
        first = resume or Checkpoint(GossipState(flatten(arrays.values())))
        state = self.state = first.of(GossipState)
        self._tally, self.stopped = Tally(), first.stopped if self.stop else None
        result = Result(arrays=self._named(state.entry))
        journal = Journal(first, result, evaluate_fn, on_round, self.stop)
        self._roster = self.enrolment.enrol(grid, state.entry.size)
        if resume is None:
            start = {"spread": 0.0, "models": len(self._roster.nodes)}
            self.stopped = journal.close(0, self._tally, state, start)
        for number in range(state.round + 1, num_rounds + 1):
            if self.stopped:
                _LOG.info("stopped before round %s: %s", number, self.stopped)
                break
            self._train(number, grid, timeout, result)
            due = number % self.evaluate_every == 0 or number == num_rounds
            seen = self._see(number, grid, timeout, result) if due else {}
            metrics = {"pairs": len(self._tally.outcome.pairs), **seen}
            evaluated = "spread" in seen
            self.stopped = journal.close(
                number, self._tally, self._running(), metrics, evaluated=evaluated
            )
        return result

    # Flower's steps -----------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One plan per client that is there and takes a step; the state decides, not ``arrays``."""
        self._roster.wait(grid, 1, self.enrolment.patience)
        enrolled = {**self._running().enrolled, **self._roster.sizes}
        state = self.state = replace(self._running(), enrolled=enrolled)
        gossip.pairs_of(self.algorithm, state)  # if a graph has no place for somebody, say so now
        asked = [c for c in gossip.asked(self.algorithm, state) if c in self._roster.nodes]
        plans = [gossip.plan_for(self.algorithm, state, client) for client in asked]
        messages, size = addressed(plans, "train.gossip", self._roster.nodes, server_round)
        self._tally = Tally(asked=len(plans), downlink_bytes=size)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the valid models meet; what is refused is logged with the client and the reason."""
        before = self._running()
        came = collect(replies, self._roster)
        state, outcome = gossip.apply(self.algorithm, before, came.reports)
        self._tally.close(came, outcome, server_round)
        self._forget(state, came.lost_models)
        if not outcome.applied:
            return None, None
        metrics = {"loss": outcome.loss, "applied": len(outcome.applied)}
        return None, MetricRecord({**metrics, "pairs": len(outcome.pairs)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One query to each client that is there and has taken a step."""
        state = self._running()
        asked = sorted(set(state.acknowledged) & set(self._roster.nodes))
        queries = [gossip.query_for(self.algorithm, state, client) for client in asked]
        nodes = self._roster.nodes
        messages, self._evaluation_bytes = addressed(queries, "query.model", nodes, server_round)
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Make the mean of the models that came the entry; None if there is none."""
        state = self._running()
        came = models_in(replies, self._roster, state.entry, server_round)
        self._evaluation_bytes += came.size
        models = {**self._waiting(state), **came.vectors}
        if len(models) < len(state.enrolled):
            counts = (len(models), len(state.enrolled))
            _LOG.warning("round %s: the mean is of %s of %s models", server_round, *counts)
        self._forget(state, came.lost)
        if not models:
            return None
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            mean, spread = gossip.mean_and_spread([models[client] for client in sorted(models)])
        if not np.isfinite(mean).all():
            _LOG.warning("round %s: the mean of the models is not finite: diverged", server_round)
            return None
        self.state = gossip.enter(self._running(), mean, self._tally.outcome.forgotten)
        return MetricRecord({"spread": spread, "models": len(models)})

    # Pieces -------------------------------------------------------------------------------------

    def _running(self) -> GossipState:
        if self.state is None:
            raise RuntimeError("call start(): the strategy has no clients yet")
        return self.state

    def _named(self, model: Vector) -> ArrayRecord:
        return arrays_of(unflatten(model, self._layout))

    def _forget(self, state: GossipState, lost: Sequence[int]) -> None:
        self.state = gossip.forget(state, lost)
        self._tally.forget(lost)

    def _waiting(self, state: GossipState) -> dict[int, Vector]:
        """The models of those that are there and have not begun, as far as they can begin."""
        out = {*state.acknowledged, *self._tally.outcome.refused}
        waiting = set(self._roster.nodes) - out
        return {client: gossip.start_of(state, client) for client in waiting}

    def _train(self, number: int, grid: Grid, timeout: float, result: Result) -> None:
        messages = list(self.configure_train(number, result.arrays, ConfigRecord(), grid))
        _, trained = self.aggregate_train(number, exchange(grid, messages, timeout))
        self._tally.check_first(number)
        if trained is not None:
            result.train_metrics_clientapp[number] = trained

    def _see(self, number: int, grid: Grid, timeout: float, result: Result) -> dict[str, Any]:
        queries = list(self.configure_evaluate(number, result.arrays, ConfigRecord(), grid))
        seen = self.aggregate_evaluate(number, exchange(grid, queries, timeout))
        sizes = {"evaluation_bytes": self._evaluation_bytes}
        if seen is None:
            return sizes
        result.evaluate_metrics_clientapp[number] = seen
        result.arrays = self._named(self._running().entry)
        return {**dict(seen), **sizes}
