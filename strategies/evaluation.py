"""The clients' own evaluations, as one."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import MetricRecord

_WEIGHT = "num-examples"


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
