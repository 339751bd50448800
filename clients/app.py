"""A Flower ClientApp that answers fedbias plans with an objective of the user's.

Messages: ``query.hello`` → :class:`fedbias.hello.Hello`; ``train`` → a Plan, answered by a Report;
``query.hvp`` → a HvpQuery, answered by a product of the client's Hessian; ``evaluate`` → a point,
answered by the objective's metrics. Where clients own their models: ``train.gossip`` → a
GossipPlan, answered by a Report; ``query.model`` → a ModelQuery, answered by the model. Each is one
ConfigRecord named "fedbias". What a client cannot or will not do it answers with an error of one
sentence.
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

from fedbias import gossip
from fedbias.client import Cohort, cohort_of, prefetched, respond
from fedbias.hello import Hello
from fedbias.ledger import LOST_MODEL, Ledger, LostModel
from fedbias.objectives import Objective, client_metrics
from fedbias.rounds import Plan, Report, dense, dense_vector
from fedbias.sharpness import HvpQuery
from fedbias.vectors import Vector

from .memory import load_ledger, save_ledger
from .replica import plan_of
from .sharpness import answer

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
    app.query("hello")(_answering(partial(_hello, app)))
    app.train()(_answering(partial(_train, app)))
    app.evaluate()(_answering(partial(_evaluate, app)))
    app.train("gossip")(_answering(partial(_gossip, app)))
    app.query("model")(_answering(_model))
    app.query("hvp")(_answering(partial(_hvp, app)))
    return app


class CohortClientApp(ClientApp):
    """A ClientApp that an engine in one process may tell beforehand which clients come together."""

    def __init__(self, make_objective: MakeObjective, mods: list[Mod] | None = None) -> None:
        super().__init__(mods=mods)
        self.make_objective = make_objective
        self._cohort: tuple[Sequence[Objective], Cohort | None] = ([], None)  # of the last round
        self._ready: dict[int, tuple[Objective, Vector]] = {}  # node → who knows its answer, where

    def prepare(self, messages: Sequence[Message], contexts: Sequence[Context]) -> None:
        """Compute the first gradients of many train messages in one call, where that is possible.

        The messages are then answered one by one as ever, with the same replies up to the rounding
        of the objective's ``cohort``. Where anything stands in the way, nothing is prepared.
        """
        self._ready.clear()
        try:
            objectives = [self.make_objective(context) for context in contexts]
            plan = Plan.from_record(_record(messages[0]))
            ready = prefetched(objectives, plan, self._cohort_of)
        except Exception as reason:  # a message that has a problem says so when it is answered
            _LOG.debug("clients are computed one by one: %s", reason)
            return
        for context, objective in zip(contexts, ready, strict=True):
            self._ready[context.node_id] = (objective, plan.point)

    def _cohort_of(self, objectives: Sequence[Objective]) -> Cohort | None:
        before = self._cohort[0]
        same = len(before) == len(objectives)
        if not (same and all(a is b for a, b in zip(before, objectives, strict=True))):
            self._cohort = (objectives, cohort_of(objectives))  # stacks, hence copies, their data
        return self._cohort[1]

    def prepared(self, node: int, plan: Plan) -> tuple[Objective, Plan] | None:
        """What was prepared for this node and this plan, once."""
        objective, point = self._ready.pop(node, (None, None))
        if objective is None or point is None or not np.array_equal(plan.point, point):
            return None
        return objective, replace(plan, point=point)  # the array that the answers belong to


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


def _hello(app: CohortClientApp, message: Message, context: Context) -> RecordDict:
    number, stable = client_number(context)
    partitions = client_count(context)
    return _content(Hello.of(app.make_objective(context), number, stable, partitions).to_record())


def _train(app: CohortClientApp, message: Message, context: Context) -> RecordDict:
    plan = plan_of(_record(message), context)
    _check_number(plan.client, context)
    objective, plan = app.prepared(context.node_id, plan) or (app.make_objective(context), plan)
    return _kept(context, *respond(objective, plan, load_ledger(context)))


def _hvp(app: CohortClientApp, message: Message, context: Context) -> RecordDict:
    query = HvpQuery.from_record(_record(message))
    _check_number(query.client, context)
    return _content({"product": dense(answer(app.make_objective(context), query, context))})


def _gossip(app: CohortClientApp, message: Message, context: Context) -> RecordDict:
    plan = gossip.GossipPlan.from_record(_record(message))
    _check_number(plan.client, context)
    objective = app.make_objective(context)
    return _kept(context, *gossip.respond(objective, plan, load_ledger(context)))


def _kept(context: Context, report: Report, ledger: Ledger) -> RecordDict:
    save_ledger(context, ledger)
    return _content(report.to_record())


def _model(message: Message, context: Context) -> RecordDict:
    query = gossip.ModelQuery.from_record(_record(message))
    _check_number(query.client, context)
    return _content({"model": dense(query.answer(load_ledger(context)))})


def _check_number(asked: int, context: Context) -> None:
    number = client_number(context)[0]
    if asked != number:
        raise ValueError(f"the plan is for client {asked}, this is client {number}")


def _evaluate(app: CohortClientApp, message: Message, context: Context) -> RecordDict:
    record, objective = _record(message), app.make_objective(context)
    point = dense_vector(record, "point")
    if "buffers" in record:
        cast(Any, objective).buffers = dense_vector(record, "buffers")
    metrics = {name: float(value) for name, value in client_metrics(objective, point).items()}
    return RecordDict({"metrics": MetricRecord({**metrics, "num-examples": objective.size})})


def _answering(
    handle: Callable[[Message, Context], RecordDict],
) -> Callable[[Message, Context], Message]:
    def answer(message: Message, context: Context) -> Message:
        try:
            return Message(handle(message, context), reply_to=message)
        except (ValueError, ImportError, OSError) as reason:
            _LOG.info("refused %s: %s", message.metadata.message_type, reason)
            code = LOST_MODEL if isinstance(reason, LostModel) else _REFUSED
            return Message(Error(code, str(reason)), reply_to=message)

    return answer


def _record(message: Message) -> Mapping[str, Any]:
    record = message.content.config_records.get("fedbias")
    if record is None:
        raise ValueError("the message has no record 'fedbias': is the server's strategy fedbias's?")
    return record


def _content(record: Mapping[str, Any]) -> RecordDict:
    return RecordDict({"fedbias": ConfigRecord(dict(record))})
