"""One run over any Grid: the same code in this process, on Ray and on Flower's runtimes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

import fedbias as fb
from clients import client_app
from clients.app import client_count, client_number
from fedbias.randomness import lost
from fedbias.stopping import Until
from strategies import Checkpoint, FedBias, Gossip, RoundRecord, load_checkpoint, save_checkpoint

from .engines.inline import export_states, import_states
from .engines.lossy import LossyGrid
from .output import Progress, RunFolder, read_run
from .settings import Settings, SettingsError, make_settings
from .tasks import Task, make_task

CHECKPOINT, CHECKPOINT_SECONDS = "checkpoint.safetensors", 5.0
APP_KEYS = ("name", "runs")  # of Flower's run config, beside the settings
_LOG = logging.getLogger("flwr")


def objective_of(context: Context, settings: Settings | None = None) -> fb.Objective:
    """A node's objective: its ``partition-id`` chooses the data, the settings the task."""
    chosen = settings or make_settings(
        {key: value for key, value in context.run_config.items() if key not in APP_KEYS},
        "run config",
    )
    (number, stable), count = client_number(context), client_count(context)
    if not stable or count is None:
        raise SettingsError(
            f"node config has no {'num-partitions' if stable else 'partition-id'}: start the "
            'SuperNode with --node-config "partition-id=0 num-partitions=2"'
        )
    if number >= count:
        key = "partition-id" if "partition-id" in context.node_config else "client-id"
        raise SettingsError(
            f"node config: {key} must be less than num-partitions = {count}, not {number}"
        )
    # The federation knows its own size.
    own = make_task(chosen.model_copy(update={"clients": count})).objective(number)
    return fb.ForwardOnly(own) if number >= count - chosen.forward_only else own


def client_app_for(settings: Settings) -> ClientApp:
    """The app's ClientApp for engines that give clients no run config."""
    return client_app(lambda context: objective_of(context, settings))


def strategy_for(settings: Settings) -> FedBias | Gossip:
    """The strategy that the settings describe."""
    return _decentralized(settings) if settings.matching else _star(settings)


def _star(settings: Settings) -> FedBias:
    a = settings.algorithm()
    return FedBias(
        a.optimizer,
        a.estimator,
        a.compressor,
        a.feedback,
        batch_size=a.batch_size,
        decay=a.decay,
        weights=a.weights,
        fraction=settings.fraction,
        minimum_clients=settings.clients,
        patience=settings.patience,
        partitions=settings.clients,
        minimum_replies=a.minimum_replies,
        measure_bias=a.measure_bias,
        stop=settings.made("stop", Until),
        evaluate_every=settings.client_evaluation_every,
        broadcast=settings.broadcast,
        sharpness=a.measuring,
        steering=a.steering,
        seed=a.seed,
    )


def _decentralized(settings: Settings) -> Gossip:
    a = settings.gossip()
    return Gossip(
        a.estimator,
        a.matching,
        step_size=a.step_size,
        decay=a.decay,
        compressor=a.compressor,
        feedback=a.feedback,
        batch_size=a.batch_size,
        mixing=a.mixing,
        minimum_clients=settings.clients,
        patience=settings.patience,
        partitions=settings.clients,
        evaluate_every=settings.evaluate_every,
        stop=settings.made("stop", Until),
        seed=a.seed,
    )


def show(progress: Progress, settings: Settings, title: str) -> None:
    """Begin to show a run: with its samples where they end it, with b where a rule chooses it."""
    goal, ruled = settings.made("stop", Until).samples, isinstance(settings.batch_size, str)
    shown: dict[str, Any] = {"samples": goal, "batches": ruled}
    if settings.sharpness:
        shown["measures"] = settings.made("sharpness", fb.Lanczos).due
    progress.start(settings.rounds, title, **shown)


def train(
    settings: Settings,
    grid: Grid,
    folder: RunFolder,
    progress: Progress | None = None,
    *,
    contexts: Mapping[int, Context] | None = None,
    resume: bool = False,
) -> FedBias | Gossip:
    """Train to the end, writing every round, a checkpoint every few seconds, and the model.

    Parameters
    ----------
    contexts : mapping, optional
        The nodes' contexts where this process holds them, so that their memories are in the
        checkpoint; elsewhere a resumed run's clients start with empty memories, and say so.
    resume : bool
        Go on from the folder's checkpoint, if there is one.

    Returns
    -------
    FedBias or Gossip
        The strategy, with its final state.
    """
    task, strategy = make_task(settings), strategy_for(settings)
    checkpoint = folder.path / CHECKPOINT
    earlier = _resumed(settings, folder, contexts) if resume and checkpoint.exists() else None
    if earlier is None:
        checkpoint.unlink(missing_ok=True)
        folder.begin(settings.model_dump())
    if settings.lost > 0:
        grid = LossyGrid(grid, lambda r, c: bool(lost(settings.seed, r, [c], settings.lost)))
    buffers = _arrays(task.initial_buffers())
    if buffers and isinstance(strategy, Gossip):
        raise SettingsError(
            f"model = {settings.model} has buffers (BatchNorm), which pairs would not average: "
            "take another model, or no matching"
        )
    extra: dict[str, Any] = {"initial_buffers": buffers} if buffers else {}
    result = strategy.start(
        grid,
        _arrays(task.initial()),
        settings.rounds,
        settings.timeout,
        evaluate_fn=partial(_evaluate, settings, task, strategy),
        resume=earlier,
        on_round=_Keeper(settings, folder, progress, contexts or {}).keep,
        **extra,
    )
    folder.write_model({name: array.numpy() for name, array in result.arrays.items()})
    _warn_of_few_samples(settings, strategy)
    return strategy


def _warn_of_few_samples(settings: Settings, strategy: FedBias | Gossip) -> None:
    goal, state = settings.made("stop", Until).samples, strategy.state
    if goal is not None and state is not None and state.samples < goal and not strategy.stopped:
        _LOG.warning(
            "ended after %s rounds with %s of %s samples: set rounds higher",
            *(settings.rounds, state.samples, goal),
        )


class _Keeper:
    """Keeps what every round came to, and from time to time all that is needed to go on."""

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        progress: Progress | None,
        contexts: Mapping[int, Context],
    ) -> None:
        self._settings, self._folder = settings, folder
        self._progress, self._contexts = progress, contexts
        self._written = time.monotonic()

    def keep(self, record: RoundRecord, now: Checkpoint) -> None:
        self._folder.append(record.to_dict())
        if self._progress:
            self._progress.update(record.to_dict(), now.stopped)
        over = record.round == self._settings.rounds or now.stopped
        if over or time.monotonic() - self._written > CHECKPOINT_SECONDS:
            arrays, values = export_states(self._contexts)
            save_checkpoint(
                self._folder.path / CHECKPOINT, replace(now, clients=arrays, meta=values)
            )
            self._written = time.monotonic()


def _evaluate(
    settings: Settings, task: Task, strategy: FedBias | Gossip, number: int, arrays: ArrayRecord
) -> MetricRecord | None:
    every, goal, state = settings.evaluate_every, settings.made("stop", Until), strategy.state
    over = goal.samples is not None and state is not None and state.samples >= goal.samples
    if not every or (number % every and number != settings.rounds and not over):
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges says so itself
        metrics = task.evaluate({name: array.numpy() for name, array in arrays.items()})
    if goal.accuracy is not None and "accuracy" not in metrics:
        raise SettingsError(f"stop = {goal}: task {settings.task!r} has no accuracy")
    return MetricRecord(dict(metrics)) if metrics else None


def check_same_settings(settings: Settings, folder: RunFolder) -> None:
    """Refuse to go on with other settings than the folder's, but for more rounds."""
    usual = {key: field.default for key, field in Settings.model_fields.items()}
    before, now = {**usual, **read_run(folder.path).settings}, settings.model_dump()
    changed = [key for key in now if before[key] != now[key] and key != "rounds"]
    if changed:
        raise SettingsError(
            f"{folder.path} was run with other settings ({', '.join(changed)}): "
            "give the same ones to resume, or another --name"
        )


def _resumed(
    settings: Settings, folder: RunFolder, contexts: Mapping[int, Context] | None
) -> Checkpoint:
    check_same_settings(settings, folder)
    folder.describe(settings.model_dump())  # there may be more rounds to do
    checkpoint = load_checkpoint(folder.path / CHECKPOINT)
    folder.truncate(checkpoint.state.round)
    if contexts:
        import_states(contexts, checkpoint.clients, checkpoint.meta)
    return checkpoint


def _arrays(named: Mapping[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in named.items()})
