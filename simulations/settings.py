"""The settings of a run: presets, options of the command line and Flower's run config alike.

One flat table of numbers and words. Settings that have settings of their own are spelled in the
notation, ``compressor = "top_k(fraction=0.02)"``, the same as in Python.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

import fedbias as fb
from fedbias.notation import names, parse
from fedbias.server import Algorithm
from fedbias.stopping import Until

from .data import Partition
from .models import Model

T = TypeVar("T")
_KINDS: dict[str, type[Any]] = {
    "model": Model,
    "partition": Partition,
    "estimator": fb.Estimator,
    "compressor": fb.Compressor,
    "feedback": fb.Feedback,
    "optimizer": fb.Optimizer,
    "stop": Until,
}


class SettingsError(ValueError):
    """Settings that cannot be run; one sentence per mistake."""


class Settings(BaseModel):
    """All that decides a run. The descriptions are the help of the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task: str = Field("digits", description="digits, fashion-mnist, mnist, least-squares, "
                      "logistic, or your own as module:function")  # fmt: skip
    data_root: str = Field("", description="folder with the data's files; empty: look around")
    model: str = Field("mlp(hidden=32)", description="the network, for image tasks")
    partition: str = Field("dirichlet(alpha=0.3)", description="how examples go to clients")
    dim: int = Field(20, ge=1, description="dimension of least-squares and logistic")
    condition: float = Field(10.0, ge=1, description="condition number κ of least-squares")
    clients: int = Field(10, ge=1, description="number of clients")
    rounds: int = Field(50, ge=1, description="number of rounds")
    fraction: float = Field(1.0, gt=0, le=1, description="share of clients asked per round")
    estimator: str = Field("exact()", description="what a client computes")
    batch_size: int = Field(0, ge=0, description="examples per mini-batch; 0: all the data")
    compressor: str = Field("identity()", description="how a client compresses it")
    feedback: str = Field("no_feedback()", description="what a client remembers")
    optimizer: str = Field("gradient_descent(step_size=0.5)", description="the server's step")
    weights: str = Field("uniform", description="uniform, or by examples")
    minimum_replies: int = Field(1, ge=1, description="fewer leave the model untouched")
    stop: str = Field("until()", description="goals that end the run early")
    evaluate_every: int = Field(1, ge=0, description="rounds between central evaluations; 0: never")
    client_evaluation_every: int = Field(0, ge=0, description="rounds between evaluations on the "
                                         "clients; 0: never")  # fmt: skip
    lost: float = Field(0.0, ge=0, lt=1, description="share of replies that the network loses")
    cohort: bool = Field(False, description="inline engine: compute clients together, equal up to "
                         "rounding")  # fmt: skip
    micro_batch: int = Field(0, ge=0, description="examples per forward pass; 0: a whole batch")
    device: str = Field("cpu", description="where torch computes")
    timeout: float = Field(3600.0, gt=0, description="seconds until a reply counts as lost")
    patience: float = Field(300.0, ge=0, description="seconds to wait for clients")
    seed: int = Field(0, ge=0, description="of every random draw")

    @field_validator("condition", "fraction", "lost", "timeout", "patience", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return float(value) if type(value) is int else value

    @field_validator(*_KINDS)
    @classmethod
    def _spelled(cls, text: str, info: Any) -> str:
        return repr(parse(text, _KINDS[info.field_name]))

    def made(self, field: str, kind: type[T]) -> T:
        """The setting that a field spells."""
        return parse(getattr(self, field), kind)

    def algorithm(self) -> Algorithm:
        """The algorithm these settings describe (ValueError where they do not fit together)."""
        return Algorithm(
            optimizer=self.made("optimizer", fb.Optimizer),  # type: ignore[type-abstract]
            estimator=self.made("estimator", fb.Estimator),  # type: ignore[type-abstract]
            compressor=self.made("compressor", fb.Compressor),  # type: ignore[type-abstract]
            feedback=self.made("feedback", fb.Feedback),  # type: ignore[type-abstract]
            batch_size=self.batch_size or None,
            weights=self.weights,
            minimum_replies=self.minimum_replies,
            seed=self.seed,
        )


def make_settings(values: Mapping[str, Any], where: str = "settings") -> Settings:
    """Validate a flat table.

    Raises
    ------
    SettingsError
        Names, for every mistake, the key, the value and what is allowed.
    """
    try:
        settings = Settings(**values)
    except ValidationError as error:
        sentences = [_sentence(mistake, where) for mistake in error.errors()]
        raise SettingsError("\n".join(sentences)) from None
    try:
        settings.algorithm()
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
    return settings


def read_preset(path: Path) -> dict[str, Any]:
    """The table of a preset file (SettingsError if there is none)."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"cannot read the preset {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None


def _sentence(mistake: Any, where: str) -> str:
    key = str(mistake["loc"][0]) if mistake["loc"] else "?"
    if mistake["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Settings.model_fields, 1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"known: {', '.join(Settings.model_fields)}"
        )
        return f"{where}: there is no setting {key!r}; {hint}"
    message = mistake["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:].replace("Input should be", "must be")
    message = message.replace("input should be", "must be")
    kind = _KINDS.get(key)
    allowed = f" (allowed: {', '.join(names(kind))})" if kind and "allowed" not in message else ""
    return f"{where}: {key} = {mistake['input']!r}: {message}{allowed}"


def parser_type(field: str) -> Callable[[str], Any]:
    """How the command line reads a field: its own type, from text."""
    kind = Settings.model_fields[field].annotation
    if kind is bool:
        return _boolean
    return kind if kind in (int, float) else str  # type: ignore[return-value]


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
