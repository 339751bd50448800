"""The sizes that follow from a rule: of a round, of one client in it, of the next round."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .base import BatchSize, BatchTest, Evidence


def size_now(rule: BatchSize | None, size: int | None, enrolled: Mapping[int, int]) -> int | None:
    """The round's b, at most the largest client's data unless it is constant; None: all the data.

    Parameters
    ----------
    size : int or None
        What the last round came to; None before the first.
    enrolled : mapping of int to int
        Client → examples.
    """
    if rule is None:
        return None
    if not rule.clamps:
        return rule.first
    size = rule.first if size is None else min(size, rule.maximum)
    return min(size, max(enrolled.values(), default=size))


def own_size(
    rule: BatchSize | None, size: int | None, enrolled: Mapping[int, int], client: int
) -> int | None:
    """b_m: the round's b, at most this client's data unless it is constant."""
    now = size_now(rule, size, enrolled)
    if rule is None or now is None or not rule.clamps:
        return now
    return min(now, enrolled.get(client, now))


def next_size(
    rule: BatchSize | None, size: int | None, evidence: Evidence
) -> tuple[int | None, float]:
    """The next round's b, and what a test wanted it to be (NaN without one)."""
    if rule is None or size is None:
        return None, math.nan
    wanted = rule.wanted(size, evidence) if isinstance(rule, BatchTest) else math.nan
    return rule.following(size, evidence), wanted
