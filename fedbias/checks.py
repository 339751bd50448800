"""Checks of settings: every refusal names the field, the value and what is allowed."""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np

_HUGE = 2**63 - 1  # a limit that is worth saying only to whom exceeds it


def real(
    owner: str,
    field: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    infinite: bool = False,
) -> None:
    """Refuse a value that is not a real number inside the given range.

    Parameters
    ----------
    owner, field : str
        Who is checked, for the message: ``top_k`` and ``fraction``.
    value : object
        The value to check; booleans and NaN are never numbers here.
    above, least, below, most : float, optional
        Open and closed bounds from below and above.
    infinite : bool
        Whether ±∞ is a value (an infinite clipping radius is).

    Raises
    ------
    ValueError
        Names the field, the value and the allowed range.
    """
    allowed = _interval("a number", above, least, below, most)
    fits = (
        isinstance(value, (Integral, float, np.floating))
        and not isinstance(value, bool)
        and value == value
    )
    if fits:
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:  # a whole number beyond every float
            number = math.nan
        fits = (
            (math.isfinite(number) or (infinite and math.isinf(number)))
            and (above is None or number > above)
            and (least is None or number >= least)
            and (below is None or number < below)
            and (most is None or number <= most)
        )
    if not fits:
        raise ValueError(f"{owner}: {field} must be {allowed}, not {value!r}")


def whole(owner: str, field: str, value: object, *, least: int, most: int | None = None) -> None:
    """Refuse a value that is not a whole number in ``[least, most]`` (ValueError)."""
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not (fits and value >= least and (most is None or value <= most)):  # type: ignore[operator]
        beyond = fits and most is not None and value > most  # type: ignore[operator]
        shown = None if most is not None and most >= _HUGE and not beyond else most
        span = _interval("a whole number", None, least, None, shown)
        raise ValueError(f"{owner}: {field} must be {span}, not {value!r}")


def flag(owner: str, field: str, value: object) -> None:
    """Refuse a value that is neither True nor False (ValueError)."""
    if not isinstance(value, bool):
        raise ValueError(f"{owner}: {field} must be True or False, not {value!r}")


def choice(owner: str, field: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the allowed words (ValueError)."""
    if value not in allowed:
        words = ", ".join(repr(word) for word in allowed)
        raise ValueError(f"{owner}: {field} must be one of {words}, not {value!r}")


def instance(owner: str, field: str, value: object, kind: type, example: str) -> None:
    """Refuse a value that is not of the asked kind (ValueError, with an example of one)."""
    if not isinstance(value, kind):
        raise ValueError(f"{owner}: {field} must be like {example}, not {value!r}")


def _interval(
    noun: str, above: float | None, least: float | None, below: float | None, most: float | None
) -> str:
    words = [
        f"{sign} {bound if isinstance(bound, Integral) else format(bound, 'g')}"
        for sign, bound in ((">", above), (">=", least), ("<", below), ("<=", most))
        if bound is not None
    ]
    return " ".join([noun, " and ".join(words)]).strip()
