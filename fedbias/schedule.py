"""Where clients stand in a preset schedule: the server's side of ranges that cost no bits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedbias.algorithm import Algorithm
from fedbias.rounds import Report
from fedbias.vectors import Vector

_LATE = 1024  # the round in which a schedule shows whether it grows


def radius_for(algorithm: Algorithm, applied: int, point: Vector) -> float | None:
    """r_i of a client of which ``applied`` reports were applied; None without a preset radius."""
    preset = algorithm.feedback.radius
    if preset is None:
        return None
    covering = preset.covering
    if covering is None:
        covering = algorithm.compressor.guarantee(point.size).covering or 0.0  # 0: no error
    a = covering * 2.0 ** -algorithm.compressor.rate(point.size, point.dtype)
    return preset.radius(algorithm.feedback.schedule, algorithm.optimizer, a, applied, point)


def grows(algorithm: Algorithm, point: Vector) -> bool:
    """Whether the ranges never shrink: the quantizer has too few bits for the dimension."""
    before, after = (radius_for(algorithm, i, point) for i in (_LATE - 1, _LATE))
    return before is not None and after is not None and after >= before > np.finfo(point.dtype).tiny


def counted(
    algorithm: Algorithm, counts: Mapping[int, int], applied: Mapping[int, Report]
) -> dict[int, int]:
    """Everyone's applied reports; a client that lost what its schedule builds on starts again."""
    again = not algorithm.feedback.stateless
    return dict(counts) | {
        client: 0 if again and report.lost_memory else counts.get(client, 0) + 1
        for client, report in applied.items()
    }


def check_identical(
    algorithm: Algorithm, counts: Mapping[int, int], applied: Mapping[int, Report]
) -> None:
    """Refuse clients that do not share one schedule (ValueError)."""
    said = {(bytes(report.packet), report.loss, report.examples) for report in applied.values()}
    if algorithm.feedback.radius is None or len(said) < 2:
        return
    why = "the clients' reports differ"
    if algorithm.compressor.random:
        why = f"{algorithm.compressor} draws other numbers for each client"
    elif forgot := [client for client, report in applied.items() if report.lost_memory]:
        why = f"client {forgot[0]} lost its memory"
    elif len({counts.get(client, 0) for client in applied}) > 1:
        why = "not all the clients took part from the start"
    raise ValueError(
        f"{why}: a preset radius is for one client, or identical ones of which all take part; "
        "use ef21(), or another feedback with radius=None"
    )
