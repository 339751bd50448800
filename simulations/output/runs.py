"""The folder of one run: what was asked, what happened in every round, what came out.

``runs/<name>/`` holds ``settings.toml`` (it can be used again as a preset), ``rounds.jsonl`` (one
line per round, on disk as soon as the round is over), ``model.safetensors``, ``environment.json``
and ``report.html``. A folder can be read at any moment, also while its run goes on or after it
was killed.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .toml import Setting, to_toml

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run as read from its folder.

    Attributes
    ----------
    name : str
        The name of the folder.
    settings : dict
        The content of ``settings.toml``.
    rounds : list of dict
        The records in the order of the rounds; round 0 is the start.
    environment : dict
        The content of ``environment.json``; empty while the run goes on.
    seeds : tuple of Run
        The runs that this one is the mean of.
    """

    name: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    rounds: list[Record] = field(default_factory=list)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[Run, ...] = ()

    def curve(self, across: str, up: str) -> list[tuple[float, float]]:
        """Pairs of two columns, for the rounds that have both; NaN where a value was not finite."""
        pairs = ((number(record, across), number(record, up)) for record in self.rounds)
        return [(x, y) for x, y in pairs if x is not None and y is not None]

    def values(self, key: str) -> list[float]:
        """One column, without the rounds that lack it; NaN where a value was not finite."""
        return [value for _, value in self.curve("round", key)]


def number(record: Mapping[str, Any], key: str) -> float | None:
    """Look up one value of a record: None if it was not measured, NaN if it was not finite."""
    value = record.get(key)
    if value is None:
        return math.nan if key in record.get("non_finite", ()) else None
    return float(value) if math.isfinite(value) else math.nan


class RunFolder:
    """Write one run; the folder is made when the object is.

    Parameters
    ----------
    path : str or Path
        Where the folder is or shall be. All paths of the object are absolute, so that a daemon
        with another working directory means the same files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = absolute(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.settings = self.path / "settings.toml"
        self.rounds = self.path / "rounds.jsonl"
        self.model = self.path / "model.safetensors"
        self.environment = self.path / "environment.json"
        self.report = self.path / "report.html"

    def begin(self, settings: Mapping[str, Setting]) -> None:
        """Write the settings and remove what an earlier run left in this folder."""
        to_toml(settings)  # what cannot be written is refused before anything is removed
        for old in (self.rounds, self.model, self.environment, self.report):
            old.unlink(missing_ok=True)
        self.describe(settings)

    def describe(self, settings: Mapping[str, Setting]) -> None:
        """Write the settings alone, when a run is resumed for more rounds."""
        write_text(self.settings, to_toml(settings))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the record of one round; it is on its way to the disk when this returns."""
        with self.rounds.open("a", encoding="utf-8", newline="\n") as file:
            file.write(to_json_line(record))

    def truncate(self, rounds: int) -> None:
        """Keep the start (round 0) and the first `rounds` rounds: before a run is resumed."""
        kept = [record for record in _read_rounds(self.rounds) if record["round"] <= rounds]
        write_text(self.rounds, "".join(map(to_json_line, kept)))

    def write_model(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Write the named arrays; an earlier model stays whole until the new one is."""
        from safetensors.numpy import save_file

        with _replacing(self.model) as part:
            save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, part)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write what :func:`simulations.environment.describe_environment` found."""
        text = json.dumps(dict(environment), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.environment, text + "\n")


def read_run(path: str | Path) -> Run:
    """Read a run's folder, complete or not.

    Raises
    ------
    FileNotFoundError
        If there is no ``settings.toml``: then this is not the folder of a run.
    ValueError
        If a file is damaged; a half-written last round is left out instead.
    """
    folder = absolute(path)
    if not (folder / "settings.toml").is_file():
        below = ", ".join(sorted(path.parent.name for path in folder.glob("*/settings.toml")))
        raise FileNotFoundError(
            f"{folder} is not the folder of a run: it has no settings.toml"
            + (f"; those below it do: {below}" if below else "")
        )
    settings = _read(folder / "settings.toml", tomllib.loads)
    environment = folder / "environment.json"
    known = _read(environment, json.loads) if environment.is_file() else {}
    return Run(folder.name, settings, _read_rounds(folder / "rounds.jsonl"), known)


def to_json_line(record: Mapping[str, Any]) -> str:
    """Write a record as one line of strict JSON.

    A number that is not finite becomes null, and its name joins the list ``non_finite``: so a run
    that diverged can be told from a round that was not evaluated.
    """
    plain = {key: _plain(value) for key, value in record.items()}
    lost = [key for key, value in plain.items() if _not_finite(value)]
    if lost:
        plain |= dict.fromkeys(lost)
        plain["non_finite"] = sorted({*lost, *record.get("non_finite", ())})
    return json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"


def absolute(path: str | Path) -> Path:
    """Give the absolute path, with ``~`` written out."""
    return Path(path).expanduser().resolve()


def write_text(path: Path, text: str) -> None:
    """Write a text file; an earlier one stays whole until the new one is."""
    with _replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def _read(path: Path, parse: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _read_rounds(path: Path) -> list[Record]:
    lines = path.read_bytes().splitlines() if path.is_file() else []
    records: list[Record] = []
    for place, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records.append({"round": int(record["round"]), **record})
        except (ValueError, KeyError, TypeError):
            if place < len(lines):
                raise ValueError(f"{path}: line {place} is not a round's record") from None
    return records


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
