"""What a setting may be, in words: for the help, and for whoever wrote something else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

import fedbias as fb
from fedbias.notation import parse
from fedbias.stopping import Until

from .data import Partition
from .models import Model

Fields = Mapping[str, FieldInfo]
SPELLED: dict[str, type[Any]] = {
    "model": Model,
    "partition": Partition,
    "estimator": fb.Estimator,
    "batch_size": fb.BatchSize,
    "compressor": fb.Compressor,
    "feedback": fb.Feedback,
    "optimizer": fb.Optimizer,
    "decay": fb.Decay,
    "matching": fb.Matching,
    "sharpness": fb.Lanczos,
    "steering": fb.BySharpness,
    "stop": Until,
}
_NUMBERS = {"batch_size": "a whole number >= 0"}  # of those, what may be a plain number too
_MOST = 250  # characters of signatures that a sentence can bear


def signatures(field: str) -> dict[str, str]:
    """What a field may spell: ``{"top_k": "top_k(fraction)", …}``, in alphabetical order."""
    found, kinds = {}, [SPELLED[field]]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if "__dataclass_fields__" in vars(kind):
            found[kind.name] = f"{kind.name}({', '.join(part.name for part in fields(kind))})"
    return dict(sorted(found.items()))


def respelled(field: str, text: str) -> str:
    """The setting that a field spells, in the one spelling that is kept (ValueError)."""
    known = signatures(field)
    name = text.partition("(")[0].strip()
    if name not in known:
        hint = "".join(f"; did you mean {near}?" for near in _near(name, known))
        raise ValueError(f"there is no such {field}{hint} (allowed: {_listed(field)})")
    try:
        return repr(parse(text, SPELLED[field]))
    except ValueError as error:
        raise ValueError(str(error).removeprefix(repr(text)).lstrip(": ")) from None


def allowed(key: str, field: FieldInfo) -> str:
    """What a field may be: ``a number > 0 and <= 1``."""
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if key in SPELLED:
        return _listed(key) if key in _NUMBERS else f"text, one of {_listed(key)}"
    if kind is str:
        return "text"
    noun = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in signs.items()
        if hasattr(bound, name)
    ]
    return f"{noun} {' and '.join(bounds)}".strip()


def sentences(
    error: ValidationError, values: Mapping[str, Any], known: Fields, where: str
) -> list[str]:
    """One sentence for every mistake that pydantic found in ``values``."""
    found = (_sentence(mistake, values, known, where) for mistake in error.errors())
    return list(dict.fromkeys(found))  # a value of neither of two types is two mistakes


def _sentence(mistake: Any, values: Mapping[str, Any], known: Fields, where: str) -> str:
    problem = mistake["msg"].removeprefix("Value error, ")
    if not mistake["loc"]:
        return f"{where}: {problem}"
    key = str(mistake["loc"][0])
    if mistake["type"] == "extra_forbidden":
        return f"{where}: there is no setting {key!r}; {_instead(key, known)}"
    if mistake["type"] != "value_error":
        finite = "finite " if mistake["type"] == "finite_number" else ""
        problem = f"must be {allowed(key, known[key]).replace('a number', f'a {finite}number')}"
    return f"{where}: {key} = {values[key]!r}: {problem}"


def _instead(key: str, known: Fields) -> str:
    if key == "cells":
        return "a file with cells is for `compare`"
    near = [f"did you mean {name!r}?" for name in _near(key, known)]
    return "".join(near) or f"known: {', '.join(known)}"


def _near(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, known, 1)


def _listed(field: str) -> str:
    """What a field may spell: signatures as long as they can be read, otherwise names alone."""
    known, number = signatures(field), _NUMBERS.get(field)
    whole = ", ".join(known.values())
    rules = whole if len(whole) <= _MOST else ", ".join(known)
    return f"{number}, or a rule: {rules}" if number else rules
