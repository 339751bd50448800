"""A Flower ClientApp that answers fedbias plans with an objective of the user's.

Messages: ``query.hello`` → :class:`fedbias.hello.Hello`; ``train`` → a Plan, answered by a Report;
``evaluate`` → a point, answered by the objective's metrics. Each is one ConfigRecord named
"fedbias". What a client cannot or will not do it answers with an error of one sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedbias.client import prefetched, respond
from fedbias.hello import Hello
from fedbias.objectives import Objective, client_metrics
from fedbias.packets import Packet, decode
from fedbias.rounds import Plan

from .memory import load_ledger, save_ledger

MakeObjective = Callable[[Context], Objective]
_REFUSED = 2  # Flower's code for a ClientApp that raised; the reason is ours
_LOG = logging.getLogger("flwr")


def client_app(make_objective: MakeObjective, mods: list[Mod] | None = None) -> CohortClientApp:
    """Make a ClientApp from a function that makes a client's objective.

    Parameters
    ----------
    make_objective : callable
        Context → Objective. ``context.node_config`` says which data this node has. Called for
        every message, so keep what is expensive (functools.cache).
    mods : list of Mod, optional
        Flower mods around every handler.

    Returns
    -------
    CohortClientApp
        A ClientApp; give it to Flower as ``clientapp``.
    """
    app = CohortClientApp(make_objective, mods)
    app.query("hello")(_answering(partial(_hello, make_objective)))
    app.train()(_answering(partial(_train, make_objective)))
    app.evaluate()(_answering(partial(_evaluate, make_objective)))
    return app


class CohortClientApp(ClientApp):
    """A ClientApp that an engine in one process may also ask for many clients at once."""

    def __init__(self, make_objective: MakeObjective, mods: list[Mod] | None = None) -> None:
        super().__init__(mods=mods)
        self._make_objective = make_objective
        self._plain = not mods

    def answer_together(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Message]:
        """Answer many train messages, with the clients' first gradients computed in one call.

        The same replies as one by one, up to the rounding of the objective's ``cohort``.
        """
        if not self._plain:
            return [self(m, context) for m, context in zip(messages, contexts, strict=True)]
        try:
            objectives = [self._make_objective(context) for context in contexts]
            plan = Plan.from_record(_record(messages[0]))
            ready = prefetched(objectives, plan)
        except (ValueError, ImportError, OSError):  # then each says for itself what is wrong
            return [self(m, context) for m, context in zip(messages, contexts, strict=True)]
        replies = []
        for message, context, objective in zip(messages, contexts, ready, strict=True):
            handle = partial(_train_on, objective, point=plan.point)
            replies.append(_answering(handle)(message, context))
        return replies


def client_number(context: Context) -> tuple[int, bool]:
    """The client's number and whether it is stable: partition-id, client-id, or the node's id."""
    for key in ("partition-id", "client-id"):
        number = context.node_config.get(key)
        if number is not None:
            if type(number) is not int or number < 0:
                raise ValueError(f"node config: {key} must be a whole number >= 0, not {number!r}")
            return number, True
    return context.node_id, False


def client_count(context: Context) -> int | None:
    """Over how many clients the data is split: the node config's num-partitions, if any."""
    count = context.node_config.get("num-partitions")
    if count is not None and (type(count) is not int or count < 1):
        raise ValueError(f"node config: num-partitions must be a whole number >= 1, not {count!r}")
    return count


def _hello(make_objective: MakeObjective, message: Message, context: Context) -> RecordDict:
    number, stable = client_number(context)
    partitions = client_count(context)
    return _content(Hello.of(make_objective(context), number, stable, partitions).to_record())


def _train(make_objective: MakeObjective, message: Message, context: Context) -> RecordDict:
    return _train_on(make_objective(context), message, context)


def _train_on(
    objective: Objective,
    message: Message,
    context: Context,
    point: np.ndarray[Any, Any] | None = None,
) -> RecordDict:
    plan = Plan.from_record(_record(message))
    if point is not None and np.array_equal(plan.point, point):
        plan = replace(plan, point=point)  # the array that the cohort's answers belong to
    report, ledger = respond(objective, plan, load_ledger(context))
    save_ledger(context, ledger)
    return _content(report.to_record())


def _evaluate(make_objective: MakeObjective, message: Message, context: Context) -> RecordDict:
    record, objective = _record(message), make_objective(context)
    point = decode(Packet.from_bytes(record["point"]), dim=objective.dim)
    if "buffers" in record:
        cast(Any, objective).buffers = decode(Packet.from_bytes(record["buffers"]))
    metrics = {name: float(value) for name, value in client_metrics(objective, point).items()}
    return RecordDict({"metrics": MetricRecord({**metrics, "num-examples": objective.size})})


def _answering(
    handle: Callable[[Message, Context], RecordDict],
) -> Callable[[Message, Context], Message]:
    def answer(message: Message, context: Context) -> Message:
        try:
            return Message(handle(message, context), reply_to=message)
        except (ValueError, ImportError, OSError) as reason:
            _LOG.warning("refused %s: %s", message.metadata.message_type, reason)
            return Message(Error(_REFUSED, str(reason)), reply_to=message)

    return answer


def _record(message: Message) -> Mapping[str, Any]:
    record = message.content.config_records.get("fedbias")
    if record is None:
        raise ValueError("the message has no record 'fedbias': is the server's strategy fedbias's?")
    return record


def _content(record: Mapping[str, Any]) -> RecordDict:
    return RecordDict({"fedbias": ConfigRecord(dict(record))})
