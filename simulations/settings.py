"""The settings of a run: presets, options of the command line and Flower's run config alike.

One flat table of numbers and words. Settings that have settings of their own are spelled in the
notation, ``compressor = "top_k(fraction=0.02)"``, the same as in Python.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import fedbias as fb
from fedbias.algorithm import Algorithm
from fedbias.gossip import GossipAlgorithm
from fedbias.notation import parse
from fedbias.replica import check_seeds
from fedbias.stopping import Until

from .forms import check_forms
from .sentences import SPELLED, respelled, sentences

T = TypeVar("T")
_MAY_BE_EMPTY = ("matching", "sharpness", "steering")


class SettingsError(ValueError):
    """Settings that cannot be run; one sentence per mistake."""


class Settings(BaseModel):
    """All that decides a run. The descriptions are the help of the command line."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )

    task: str = Field("digits", description="digits, fashion-mnist, mnist, least-squares, "
                      "logistic, onnx, or your own as module:function")  # fmt: skip
    data_root: str = Field("", description="folder with the data's files; empty: look around")
    model: str = Field("mlp(hidden=32)", description="the network, for image tasks")
    partition: str = Field("dirichlet(alpha=0.3)", description="how examples go to clients")
    dim: int = Field(20, ge=1, description="dimension of least-squares and logistic")
    condition: float = Field(10.0, ge=1, description="condition number κ of least-squares")
    clients: int = Field(10, ge=1, description="number of clients")
    rounds: int = Field(50, ge=1, description="number of rounds")
    fraction: float = Field(1.0, gt=0, le=1, description="share of clients asked per round")
    estimator: str = Field("exact()", description="what a client computes")
    batch_size: Annotated[int, Field(ge=0)] | str = Field(
        0, description="examples per mini-batch and client; 0: all the data; or a rule"
    )
    compressor: str = Field("identity()", description="how a client compresses it")
    feedback: str = Field("no_feedback()", description="what a client remembers")
    optimizer: str = Field("gradient_descent(step_size=0.5)", description="the server's step")
    decay: str = Field("no_decay()", description="how its step size falls with the samples")
    weights: Literal["uniform", "examples", "inverse_variance"] = Field(
        "uniform", description="what a client's reply weighs: uniform, as its examples, or as the "
        "precision of its kind of estimate"
    )  # fmt: skip
    forward_only: int = Field(0, ge=0, description="how many clients, the last ones, have forward "
                              "passes alone")  # fmt: skip
    broadcast: Literal["model", "seeds"] = Field(
        "model", description="how clients learn of the model: as it is, or as the seeds that moved "
        "it"
    )  # fmt: skip
    matching: str = Field("", description="who averages with whom, where every client owns its "
                          "model; empty: the server has the one model")  # fmt: skip
    mixing: float = Field(1.0, gt=0, le=1, description="share of the way to its pair's mean that "
                          "a client's own model goes")  # fmt: skip
    minimum_replies: int = Field(1, ge=1, description="fewer leave the model untouched")
    stop: str = Field("until()", description="goals that end the run early")
    evaluate_every: int = Field(1, ge=0, description="rounds between central evaluations; 0: never")
    client_evaluation_every: int = Field(0, ge=0, description="rounds between evaluations on the "
                                         "clients; 0: never")  # fmt: skip
    measure_bias: int = Field(0, ge=0, description="rounds between comparisons of what clients "
                              "send with their exact gradients; 0: never")  # fmt: skip
    sharpness: str = Field("", description="when and how the sharpness is measured; empty: never")
    steering: str = Field("", description="how the step size follows from it; empty: not at all")
    lost: float = Field(0.0, ge=0, lt=1, description="share of replies that the network loses")
    cohort: bool = Field(False, description="inline engine: compute clients together, equal up to "
                         "rounding")  # fmt: skip
    micro_batch: int = Field(0, ge=0, description="examples per forward pass; 0: a whole batch")
    device: str = Field("cpu", description="where torch computes")
    timeout: float = Field(3600.0, gt=0, description="seconds until a reply counts as lost")
    patience: float = Field(300.0, ge=0, description="seconds to wait for clients")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of every random draw")

    @field_validator(
        "condition", "fraction", "mixing", "lost", "timeout", "patience", mode="before"
    )
    @classmethod
    def _number(cls, value: object) -> object:
        return float(value) if type(value) is int else value

    @field_validator(*SPELLED)
    @classmethod
    def _spelled(cls, text: str | int, info: Any) -> str | int:
        plain = not isinstance(text, str) or (text == "" and info.field_name in _MAY_BE_EMPTY)
        return text if plain else respelled(info.field_name, str(text))

    @field_validator("device")
    @classmethod
    def _torch_device(cls, text: str) -> str:
        if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", text):
            raise ValueError("must be cpu, cuda, mps or xpu, perhaps with a number as in cuda:0")
        return text

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        estimator = self.made("estimator", fb.Estimator)  # type: ignore[type-abstract]
        if self.batch_size and not estimator.draws_batches:
            raise ValueError(
                f"batch_size = {self.batch_size} has no meaning for {estimator}, which uses all "
                "the data: set batch_size = 0, or an estimator that draws, such as minibatch()"
            )
        check_forms(self, estimator)
        rule = self.batching
        asked = max(round(self.fraction * self.clients), self.minimum_replies)
        if isinstance(rule, fb.BatchSize) and rule.compares_clients and asked < 2:
            raise ValueError(
                f"batch_size = {rule} compares the clients of a round, and here it has one: set "
                "clients or fraction higher"
            )
        if self.minimum_replies > self.clients:
            raise ValueError(
                f"minimum_replies = {self.minimum_replies}: must be at most the number of "
                f"clients, {self.clients}, or no round would ever count"
            )
        stop = self.made("stop", Until)
        stop.check(self.made("feedback", fb.Feedback))  # type: ignore[type-abstract]
        if not self.evaluate_every and (stop.accuracy is not None or stop.loss is not None):
            raise ValueError(
                f"stop = {stop} looks at central evaluation, which evaluate_every = 0 turns off"
            )
        return self

    def made(self, field: str, kind: type[T]) -> T:
        """The setting that a field spells."""
        return parse(getattr(self, field), kind)

    @property
    def batching(self) -> fb.BatchSize | int | None:
        """A size, a rule for it, or None for all the data."""
        if isinstance(self.batch_size, int):
            return self.batch_size or None
        return self.made("batch_size", fb.BatchSize)  # type: ignore[type-abstract]

    def gossip(self) -> GossipAlgorithm:
        """The decentralized algorithm that these settings describe (ValueError)."""
        optimizer = self.made("optimizer", fb.Optimizer)  # type: ignore[type-abstract]
        if optimizer != fb.gradient_descent(optimizer.step_size):
            raise ValueError(
                f"optimizer = {optimizer}: clients that own their models take plain steps: use "
                "gradient_descent, and for momentum local_steps(count=1, …, momentum=0.9)"
            )
        if not isinstance(self.batching, int | None):
            raise ValueError(f"batch_size = {self.batching}: with matching it is a number")
        return GossipAlgorithm(
            estimator=self.made("estimator", fb.Estimator),  # type: ignore[type-abstract]
            matching=self.made("matching", fb.Matching),  # type: ignore[type-abstract]
            step_size=optimizer.step_size,
            decay=self.made("decay", fb.Decay),  # type: ignore[type-abstract]
            compressor=self.made("compressor", fb.Compressor),  # type: ignore[type-abstract]
            feedback=self.made("feedback", fb.Feedback),  # type: ignore[type-abstract]
            batch_size=self.batching,
            mixing=self.mixing,
            seed=self.seed,
        )

    def algorithm(self) -> Algorithm:
        """The algorithm these settings describe (ValueError where they do not fit together)."""
        return Algorithm(
            optimizer=self.made("optimizer", fb.Optimizer),  # type: ignore[type-abstract]
            estimator=self.made("estimator", fb.Estimator),  # type: ignore[type-abstract]
            compressor=self.made("compressor", fb.Compressor),  # type: ignore[type-abstract]
            feedback=self.made("feedback", fb.Feedback),  # type: ignore[type-abstract]
            batch_size=self.batching,
            decay=self.made("decay", fb.Decay),  # type: ignore[type-abstract]
            weights=self.weights,
            minimum_replies=self.minimum_replies,
            measure_bias=self.measure_bias,
            sharpness=self.made("sharpness", fb.Lanczos) if self.sharpness else None,
            steering=self.made("steering", fb.BySharpness) if self.steering else None,
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
        found = sentences(error, values, Settings.model_fields, where)
        raise SettingsError("\n".join(found)) from None
    try:
        if settings.matching:
            settings.gossip()
        else:
            algorithm = settings.algorithm()
            if settings.broadcast == "seeds":
                check_seeds(algorithm)
    except ValueError as error:
        why = str(error).removeprefix("algorithm: ").removeprefix("gossip: ")
        raise SettingsError(f"{where}: {why}") from None
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


def parser_type(field: str) -> Callable[[str], Any]:
    """How the command line reads a field; what is not of its type is left for `Settings`."""
    kind: Any = Settings.model_fields[field].annotation

    def read(text: str) -> Any:
        try:
            if str in get_args(kind):
                return int(text) if text.lstrip("+-").isdigit() else text
            if kind is bool:
                return {"true": True, "false": False}.get(text.lower(), text)
            return kind(text) if kind in (int, float) else text
        except ValueError:
            return text

    return read
