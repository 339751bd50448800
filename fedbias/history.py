"""What a run in this process leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbias.optimizers import State
from fedbias.sharpness import Reading
from fedbias.state import Outcome
from fedbias.vectors import Vector


@dataclass(frozen=True)
class History:
    """What a run went through.

    Attributes
    ----------
    points : ndarray, shape (rounds + 1, dim)
        x_0 … x_K; with ``keep="last"`` x_K alone, shape (1, dim).
    losses : ndarray, shape (rounds + 1,)
        The weighted mean of all the objectives' full losses at every point.
    payload_bits, wire_bits : ndarray of int, shape (rounds,)
        Summed over the clients whose report arrived.
    batch_sizes : list of (int or None)
        b of every round, each client's; one with less data took less. None is all the data.
    outcomes : list of Outcome
        What became of the reports, round by round.
    memories : list of dict
        Every client's committed memory at the end.
    optimizer_state : mapping of str to ndarray
        The optimizer's state at the end.
    stopped : str or None
        The goal that ended the run early.
    spreads : ndarray, shape (rounds + 1,), or None
        Of a decentralized run: the mean squared distance of the clients' models from their mean.
    readings : list of Reading
        The sharpness, where it was measured.
    unmeasured : dict of int to str
        Round → why it was not, where it should have been.
    """

    points: Vector
    losses: Vector
    payload_bits: Vector
    wire_bits: Vector
    batch_sizes: list[int | None]
    outcomes: list[Outcome]
    memories: list[Mapping[str, Vector]]
    optimizer_state: State
    stopped: str | None
    spreads: Vector | None = None
    readings: list[Reading] = field(default_factory=list)
    unmeasured: dict[int, str] = field(default_factory=dict)
