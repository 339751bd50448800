"""One spelling for every setting: ``clipped(radius=1.0, inner=minibatch())``.

The same text stands in a preset, on the command line, in a table and in the header of a
:class:`fedbias.rounds.Plan`. It is read by walking the syntax tree: a name must be registered,
an argument must be a number, a word, True, False, None or another setting. Nothing is evaluated.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import numpy as np

T = TypeVar("T")
_REGISTRY: dict[str, type[Any]] = {}


@dataclass_transform(frozen_default=True)
def setting(name: str) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass of settings that is spelled ``name(field=value, …)``."""

    def register(cls: type[T]) -> type[T]:
        check = getattr(cls, "__post_init__", None)

        def settle(self: Any) -> None:
            plain_numbers(self)
            if check:
                check(self)

        cls.__post_init__ = settle  # type: ignore[attr-defined]
        made = dataclass(frozen=True, repr=False)(cls)
        made.__repr__ = spell  # type: ignore[method-assign]
        made.name = name  # type: ignore[attr-defined]
        if _REGISTRY.setdefault(name, made) is not made:
            raise ValueError(f"the setting {name!r} is registered twice")
        return made

    return register


def plain_numbers(frozen: Any) -> None:
    """Make Python's numbers of a dataclass's numpy numbers.

    These would be spelled differently, turn float32 vectors into float64, and have no JSON.
    """
    for field in fields(frozen):
        value = getattr(frozen, field.name)
        if isinstance(value, np.generic):
            object.__setattr__(frozen, field.name, value.item())


def spell(value: Any) -> str:
    """Write a setting in the notation; fields at their default are left out."""
    shown = []
    for field in fields(value):
        content = getattr(value, field.name)
        if field.default is not MISSING and content == field.default:
            continue
        shown.append(f"{field.name}={content!r}")
    return f"{value.name}({', '.join(shown)})"


def names(kind: type[Any]) -> list[str]:
    """The registered names of settings of one kind, in alphabetical order."""
    return sorted(name for name, cls in _REGISTRY.items() if issubclass(cls, kind))


def parse(text: object, kind: type[T]) -> T:
    """Read a setting of the asked kind.

    Parameters
    ----------
    text : str
        For example ``"top_k(fraction=0.02)"``; a bare name means no arguments.
    kind : type
        The base class that the setting must have.

    Raises
    ------
    ValueError
        One sentence: what was read, what is wrong, what is allowed.
    """
    if not isinstance(text, str):
        raise ValueError(f"a setting is written as text such as 'identity()', not {text!r}")
    try:
        tree = _tree(text)
        value = _build(ast.Call(tree, [], []) if isinstance(tree, ast.Name) else tree, text)
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{text[:80]!r} is not written like 'name(field=value)'") from None
    if not isinstance(value, kind):
        raise ValueError(f"{text!r} does not fit here; allowed: {', '.join(names(kind))}")
    return value


def _tree(text: str) -> ast.expr:
    if "\0" in text:  # which older Pythons refuse in other words
        raise SyntaxError
    return ast.parse(text.strip(), mode="eval").body


def _build(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name(id="inf"):
            return math.inf
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = _build(operand, text)
            if isinstance(number, (int, float)):
                return -number
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(name, args, keywords, text)
    raise ValueError(f"{text!r}: {ast.unparse(node)!r} is neither a number, a word nor a setting")


def _call(name: str, args: list[ast.expr], keywords: list[ast.keyword], text: str) -> Any:
    cls = _REGISTRY.get(name)
    if cls is None:
        raise ValueError(f"{text!r}: there is no setting {name!r}; known: {', '.join(_REGISTRY)}")
    allowed = [field.name for field in fields(cls)]
    required = [field.name for field in fields(cls) if field.default is MISSING]
    values = dict(zip(allowed, (_build(arg, text) for arg in args), strict=False))
    for keyword in keywords:
        if keyword.arg not in allowed or keyword.arg in values:
            raise ValueError(f"{name} takes ({', '.join(allowed)}), not {keyword.arg!r}")
        values[keyword.arg] = _build(keyword.value, text)
    if len(args) > len(allowed) or not set(required) <= set(values):
        needs = f"needs ({', '.join(required)}) and " if required else ""
        takes = f"takes ({', '.join(allowed)})" if allowed else "takes no arguments"
        raise ValueError(f"{name} {needs}{takes}")
    return cls(**values)
