"""JSON headers of messages, checked field by field before anything is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]
LARGEST = 2**64 - 1  # a Flower node id still fits


class ProtocolError(ValueError):
    """A record that is not what it should be; the message says why."""


def whole(least: int = 0, *, optional: bool = False) -> Check:
    """Accept whole numbers from ``least`` to 2^64 − 1, and None if ``optional``."""
    return lambda value: (
        (optional and value is None) or (type(value) is int and least <= value <= LARGEST)
    )


def real(value: Any) -> bool:
    """Accept floats, NaN and ±∞ included, and whole numbers that are floats."""
    return type(value) is float or (type(value) is int and abs(value) <= LARGEST)


def positive(value: Any) -> bool:
    """Accept None, or a finite number > 0."""
    return value is None or (real(value) and 0 < value < math.inf)


def amount(value: Any) -> bool:
    """Accept None, or a finite number ≥ 0."""
    return value is None or (real(value) and 0 <= value < math.inf)


def share(value: Any) -> bool:
    """Accept a number > 0 and ≤ 1."""
    return real(value) and 0 < value <= 1


def squares(value: Any) -> bool:
    """Accept None, or two finite numbers ≥ 0."""
    return value is None or (
        type(value) is list
        and len(value) == 2
        and all(each is not None and amount(each) for each in value)
    )


def flag(value: Any) -> bool:
    """Accept True and False."""
    return type(value) is bool


def text(value: Any) -> bool:
    """Accept text."""
    return type(value) is str


def text_or_none(value: Any) -> bool:
    """Accept text, or None."""
    return value is None or text(value)


def texts(value: Any) -> bool:
    """Accept a list of texts."""
    return type(value) is list and all(type(item) is str for item in value)


def read_header(record: Mapping[str, Any], fields: Mapping[str, Check]) -> dict[str, Any]:
    """The record's header with exactly these fields, each accepted (ProtocolError if not)."""
    try:
        header = json.loads(record["header"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ProtocolError("the record has no JSON header") from None
    if not isinstance(header, dict) or set(header) != set(fields):
        raise ProtocolError(f"the header must have the fields {', '.join(fields)}")
    for name, accepted in fields.items():
        if not accepted(header[name]):
            raise ProtocolError(f"the header's {name} cannot be {str(header[name])[:60]!r}")
    return header
