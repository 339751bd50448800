"""The clients' own evaluations, as one."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

from flwr.app import Message, MetricRecord, RecordDict

from .roster import Roster

_LOG = logging.getLogger("flwr")
_WEIGHT = "num-examples"


def evaluations(replies: Iterable[Message], roster: Roster, number: int) -> dict[int, MetricRecord]:
    """Client → its metrics; who did not evaluate, or not well, is logged and left out."""
    answers = {}
    for reply in replies:
        client = roster.client(reply.metadata.src_node_id)
        if reply.has_error():
            why = reply.error.reason
            _LOG.warning("round %s: client %s did not evaluate: %s", number, client, why)
        elif client is not None:
            try:
                answers[client] = client_evaluation(reply.content)
            except ValueError as why:
                _LOG.warning("round %s: left client %s out: %s", number, client, why)
    return answers


def client_evaluation(content: RecordDict) -> MetricRecord:
    """A client's metrics, all of them finite numbers, over at least one example (ValueError)."""
    metrics = content.metric_records.get("metrics")
    if metrics is None or _WEIGHT not in metrics:
        raise ValueError(f"its reply has no metrics with {_WEIGHT}")
    for name, value in metrics.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise ValueError(f"its {name} is {value}")
    if float(metrics[_WEIGHT]) < 1:  # type: ignore[arg-type]
        raise ValueError(f"its {_WEIGHT} is {metrics[_WEIGHT]}")
    return metrics


def mean_metrics(answers: Mapping[int, MetricRecord]) -> MetricRecord | None:
    """The mean of each metric that every client reported, weighted by examples; None without any.

    Summed in ascending client order, so the order of arrival does not change a bit.
    """
    if not answers:
        return None
    ordered = [answers[client] for client in sorted(answers)]
    shared = set.intersection(*(set(metrics) for metrics in ordered)) - {_WEIGHT}
    weights = [float(metrics[_WEIGHT]) for metrics in ordered]  # type: ignore[arg-type]
    mean: dict[str, float] = {}
    for name in sorted(shared):
        values = [float(metrics[name]) for metrics in ordered]  # type: ignore[arg-type]
        weighted = [w * value for w, value in zip(weights, values, strict=True)]
        mean[name] = sum(weighted) / sum(weights)
    return MetricRecord({**mean, _WEIGHT: int(sum(weights))})
