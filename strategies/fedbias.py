"""The Flower strategy: one :class:`fedbias.server.Algorithm` over a Grid."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

import fedbias as fb
from fedbias import checks
from fedbias.algorithm import Algorithm
from fedbias.estimators import as_estimator
from fedbias.replica import check_seeds
from fedbias.schedule import grows
from fedbias.server import apply, plan_for
from fedbias.state import ServerState
from fedbias.stopping import Until

from .arrays import Names
from .broadcast import SeedBroadcast, size_of
from .checkpoint import Checkpoint
from .evaluation import evaluations, mean_metrics
from .exchange import exchange
from .journal import EvaluateFn, Journal, OnRound
from .replies import collect
from .requests import evaluate_requests, shared_packets, train_requests
from .sampling import Sampling
from .sharpness import survey
from .tally import Tally

_LOG = logging.getLogger("flwr")


class FedBias(Strategy):
    """Federated training from biased estimates.

    Parameters
    ----------
    optimizer : Optimizer
        The server's step on the mean estimate.
    estimator, compressor, feedback
        What the clients compute, how they compress it, what they remember. A mapping from
        capability to estimator is for clients that differ in what they can compute.
    batch_size : BatchSize or int, optional
        b, each client's, for estimators that draw batches, or the rule that chooses it, such as
        ``fb.norm_test(eta=0.5, maximum=256)``; None means all the data.
    decay : Decay
        How the server's step size falls with the samples.
    weights : {"uniform", "examples", "inverse_variance"}
        How the mean over clients is weighted; :func:`fedbias.run` says when each is right.
    fraction : float
        Share of the enrolled clients asked in each round, at least ``minimum_replies`` of them;
        drawn from (seed, round) and the clients' own numbers.
    minimum_clients : int
        Clients to wait for before the first round.
    patience : float
        Seconds to wait for them, and in later rounds for ``minimum_replies`` of them (then
        TimeoutError).
    partitions : int, optional
        Over how many clients the data is split: nodes whose ``num-partitions`` says otherwise are
        turned away, and where somebody was and nobody else comes, the start waits no longer.
    minimum_replies : int
        Fewer valid replies than this leave the model untouched in that round.
    stop : Until, optional
        Ends the run early.
    evaluate_every : int
        Every so many rounds all the clients evaluate the model on their own data; 0 for never.
    measure_bias : int
        Every so many rounds, the first one included, clients report the squared distance between
        what they sent and their exact gradient, which costs them one more full gradient; 0 for
        never. Clients without gradients leave it out. The gradient is ∇f_m, also for an estimator
        that aims at something else (``fb.meta``, ``fb.local_steps``), and taken at x_k: what
        ``fb.differential`` shifts and compensates counts as bias.
    broadcast : {"model", "seeds"}
        How clients learn of x_k. Where all of them send seeds and scalars, ``"seeds"`` sends these
        on instead of the model, once each client has had the model: both directions then cost
        bytes that do not depend on the model's size. Each client keeps a copy of the model and of
        the optimizer's state, and repeats the server's step, bit for bit: it rebuilds every
        direction of every client. ``evaluate_every`` sends the model all the same, and so does a
        measurement of the sharpness.
    sharpness : Lanczos or int, optional
        When and how the sharpness of the clients' mean loss is measured (n: every n rounds): λ_max
        of its Hessian, from products with vectors that the clients compute on all their data.
    steering : BySharpness, optional
        How the step size follows from it, see :func:`strategies.sharpness_step`.
    seed : int
        Of every random draw, on the server and on the clients.

    Notes
    -----
    A client's compression error, local momentum and shuffling advance only when its report was
    applied. With a preset radius a round counts only if all replied. Without
    ``partition-id`` or ``client-id`` in the node configuration a client is keyed by its node id,
    and the run cannot be reproduced.
    """

    def __init__(
        self,
        optimizer: fb.Optimizer,
        estimator: fb.Estimator | Mapping[str, fb.Estimator] = fb.exact(),
        compressor: fb.Compressor = fb.identity(),
        feedback: fb.Feedback = fb.no_feedback(),
        *,
        batch_size: fb.BatchSize | int | None = None,
        decay: fb.Decay = fb.no_decay(),
        weights: str = "uniform",
        fraction: float = 1.0,
        minimum_clients: int = 1,
        patience: float = 300.0,
        partitions: int | None = None,
        minimum_replies: int = 1,
        stop: Until | None = None,
        evaluate_every: int = 0,
        measure_bias: int = 0,
        broadcast: str = "model",
        sharpness: fb.Lanczos | int | None = None,
        steering: fb.BySharpness | None = None,
        seed: int = 0,
    ) -> None:
        checks.whole("FedBias", "evaluate_every", evaluate_every, least=0)
        if stop is not None:
            checks.instance("FedBias", "stop", stop, Until, "until(accuracy=0.9)")
        self.sampling = Sampling("FedBias", minimum_clients, patience, partitions, fraction)
        self.algorithm = Algorithm(
            *(optimizer, as_estimator(estimator), compressor, feedback, batch_size, weights),
            minimum_replies=minimum_replies,
            seed=seed,
            measure_bias=measure_bias,
            decay=decay,
            sharpness=sharpness,
            steering=steering,
        )
        self.algorithm = self.sampling.fitted(self.algorithm, minimum_clients)
        if stop is not None:
            stop.check(feedback)
        self.stop, self.evaluate_every = stop, evaluate_every
        self.stopped: str | None = None  # why the last run ended early
        self.state: ServerState | None = None
        self._tally = Tally()
        checks.choice("FedBias", "broadcast", broadcast, ("model", "seeds"))
        self._in_seeds = broadcast == "seeds"
        if self._in_seeds:
            check_seeds(self.algorithm)

    def summary(self) -> None:
        """Log the settings."""
        a = self.algorithm
        parts = (a.optimizer, a.decay, a.estimator, a.compressor, a.feedback)
        known = [part for part in (*parts, a.measuring, a.steering) if part is not None]
        _LOG.info("\t%s, batch size %s", ", ".join(map(str, known)), a.batch_size)

    @property
    def refused(self) -> Mapping[int, str]:
        """Client → why its reply was refused, in the last round."""
        return self._tally.outcome.refused

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
        initial_buffers: ArrayRecord | None = None,
        resume: Checkpoint | None = None,
        on_round: OnRound | None = None,
    ) -> Result:
        """Train for ``num_rounds`` rounds, or until ``stop`` is reached.

        Parameters
        ----------
        grid : Grid
        initial_arrays : ArrayRecord
            The parameters x_0 by name, all of one floating dtype.
        timeout : float
            Seconds per round after which a missing reply counts as lost.
        train_config, evaluate_config : ConfigRecord, optional
            Flower's; a Plan carries all that clients need, so these must be empty.
        evaluate_fn : callable, optional
            (round, arrays) → MetricRecord or None: central evaluation, at the start and after every
            round. ``loss`` and ``accuracy`` are what ``stop`` looks at.
        initial_buffers : ArrayRecord, optional
            What training changes besides the parameters (BatchNorm's statistics): averaged
            uncompressed, counted in the bytes.
        resume : Checkpoint, optional
            Where an earlier run stopped; ``initial_arrays`` then only names the parameters.
        on_round : callable, optional
            (RoundRecord, Checkpoint) after every round, and for the start with round 0.

        Returns
        -------
        flwr.serverapp.strategy.Result

        Raises
        ------
        ValueError
            If all the clients' replies of the first round are refused.
        """
        if train_config or evaluate_config:
            raise ValueError("FedBias: settings go to FedBias itself, not into train_config")
        names = self._names = Names.of(initial_arrays, initial_buffers)
        first = resume or Checkpoint(names.start(initial_arrays, initial_buffers))
        state = self.state = first.of(ServerState)
        self._tally, self.stopped = Tally(), first.stopped if self.stop else None
        self._seeds = SeedBroadcast(self.algorithm, state) if self._in_seeds else None
        result = Result(arrays=names.arrays(state))
        journal = Journal(first, result, evaluate_fn, on_round, self.stop)
        self._roster = self.sampling.enrol(grid, state.point.size)
        if grows(self.algorithm, state.point):
            _LOG.warning(
                "the preset ranges never shrink with %s at %s entries: the model will not "
                "converge; use more bits, or feedback without a radius",
                *(self.algorithm.compressor, state.point.size),
            )

        if resume is None:
            self.stopped = journal.close(0, self._tally, state, {})
        for number in range(state.round + 1, num_rounds + 1):
            if self.stopped:
                _LOG.info("stopped before round %s: %s", number, self.stopped)
                break
            self._train(number, grid, timeout, result)
            metrics = self._evaluate_clients(number, grid, timeout, result)
            self.stopped = journal.close(number, self._tally, self._running(), metrics)
        return result

    # Flower's steps -----------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One plan per sampled client; the state decides, not ``arrays`` and ``config``."""
        chosen = self.sampling.draw(self._roster, grid, self.algorithm, self._running())
        enrolled = {**self._running().enrolled, **self._roster.sizes}  # they bound batch sizes
        state = self.state = replace(self._running(), enrolled=enrolled)
        plans = [plan_for(self.algorithm, state, client) for client in chosen]
        packets = self._seeds.packets(state, chosen) if self._seeds else shared_packets(plans)
        sent = sum(size_of(packets[client]) for client in chosen)
        self._tally = Tally(asked=len(plans), downlink_bytes=sent, survey=self._tally.survey)
        return train_requests(plans, packets, self._roster.nodes, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Apply the valid reports; what is refused is logged with the client and the reason."""
        state = self._running()
        came = collect(replies, self._roster)
        algorithm = self.sampling.fitted(self.algorithm, self._tally.asked)
        self.state, outcome = apply(algorithm, state, came.reports, self._roster.sizes)
        if self._seeds:
            self._seeds.close(state, self.state, came, outcome)
        self._tally.close(came, outcome, server_round)
        if not outcome.applied:
            return None, None
        arrays = self._names.arrays(self.state)
        metrics = {"loss": outcome.loss, "gradient_norm": outcome.gradient_norm}
        found = self._tally.survey
        if found is not None and found.reading is not None:
            metrics["sharpness"] = found.reading.value
        metrics |= {"step_size": outcome.step_size, "applied": len(outcome.applied)}
        return arrays, MetricRecord(dict(metrics))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """In every ``evaluate_every``-th round, the point for every client."""
        if not self.evaluate_every or server_round % self.evaluate_every:
            return ()
        return evaluate_requests(self._running(), self._roster.nodes, server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The clients' metrics, weighted by their examples, in client order."""
        return mean_metrics(evaluations(replies, self._roster, server_round))

    # Pieces -------------------------------------------------------------------------------------

    def _running(self) -> ServerState:
        if self.state is None:
            raise RuntimeError("call start(): the strategy has no model yet")
        return self.state

    def _train(self, number: int, grid: Grid, timeout: float, result: Result) -> None:
        self._tally = Tally()
        self._measure(grid, timeout)
        messages = list(self.configure_train(number, result.arrays, ConfigRecord(), grid))
        arrays, trained = self.aggregate_train(number, exchange(grid, messages, timeout))
        self._tally.check_first(number)
        if arrays is not None and trained is not None:
            result.arrays, result.train_metrics_clientapp[number] = arrays, trained

    def _measure(self, grid: Grid, timeout: float) -> None:
        state, setting = self._running(), self.algorithm.measuring
        if setting is not None and setting.due(state.round):
            least = self.algorithm.minimum_replies
            self._roster.wait(grid, least, self.sampling.patience)
            self.state, found = survey(self.algorithm, state, self._roster, grid, timeout)
            self._tally.survey = found

    def _evaluate_clients(
        self, number: int, grid: Grid, timeout: float, result: Result
    ) -> dict[str, Any]:
        questions = list(self.configure_evaluate(number, result.arrays, ConfigRecord(), grid))
        if not questions:
            return {}
        mean = self.aggregate_evaluate(number, exchange(grid, questions, timeout))
        if mean is None:
            return {}
        result.evaluate_metrics_clientapp[number] = mean
        return {"client_loss": mean.get("loss"), "client_accuracy": mean.get("accuracy")}
