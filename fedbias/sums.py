"""The weighted sums over a round's valid reports, and what makes a report valid."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

import numpy as np

from fedbias.batching import Evidence, Reply
from fedbias.directions import check_directions
from fedbias.headers import LARGEST
from fedbias.kinds import Spread
from fedbias.packets import Packet, PacketError, decode
from fedbias.rounds import Measured, Report
from fedbias.vectors import Vector, squared_norm


@dataclass
class Sums:
    """Accumulators, changed in place: O(dim) memory for any number of clients.

    Attributes
    ----------
    vector, buffers : ndarray, or None where there are no buffers
        Σ w_m·(the report's vectors).
    mass, loss, length : float
        Σ w_m, Σ w_m·loss_m and, where a batch-size test compares clients, Σ w_m‖g_m‖².
    weights, samples : dict of int to (float or int)
        w_m, and how many examples the estimate is made of, by client.
    applied : dict of int to Report
        What was added, by client.
    refused : dict of int to str
        Client → why its report was not.
    kinds : dict of str to Spread
        Of each kind of estimate, where the weights follow from it.
    squares, measured_mass
        Σ w_m·(what the client measured of its bias), and Σ w_m over those that did.
    """

    vector: Vector
    buffers: Vector | None
    mass: float = 0.0
    loss: float = 0.0
    length: float = 0.0
    weights: dict[int, float] = field(default_factory=dict)
    samples: dict[int, int] = field(default_factory=dict)
    applied: dict[int, Report] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    kinds: dict[str, Spread] = field(default_factory=dict)
    squares: Vector = field(default_factory=lambda: np.zeros(2))
    measured_mass: float = 0.0

    @classmethod
    def zero(cls, vector: Vector, buffers: Vector | None) -> Sums:
        """Nothing yet, in the shapes of these."""
        return cls(np.zeros_like(vector), None if buffers is None else np.zeros_like(buffers))

    def add(
        self,
        report: Report,
        vector: Vector,
        buffers: Vector | None,
        weight: float,
        samples: int,
        compared: bool = False,
    ) -> None:
        """Add a valid report with its decoded vectors, ``compared`` with the other clients'."""
        self.samples[report.client] = samples
        with np.errstate(over="ignore"):  # the mean is looked at
            self.vector += vector if weight == 1 else weight * vector
            if self.buffers is not None and buffers is not None:
                self.buffers += weight * buffers
        self.mass, self.loss = self.mass + weight, self.loss + weight * report.loss
        if compared:
            self.length += weight * squared_norm(vector)
        self.applied[report.client], self.weights[report.client] = report, weight
        if report.measured is not None:
            self.squares += weight * np.array(astuple(report.measured))
            self.measured_mass += weight

    def evidence(self, gradient_square: float, samples: int, pool: float | None) -> Evidence:
        """What the reports say of their batches.

        Parameters
        ----------
        gradient_square : float
            ‖ĝ‖².
        samples : int
            So far.
        pool : float or None
            Σ w_m over everyone whose memory is in ĝ; None: over those that reported.
        """
        spread = 0.0
        if self.length:  # Σ w‖g_m‖²/Σ w − ‖ḡ‖²
            spread = max(0.0, self.length / self.mass - squared_norm(self.vector / self.mass))
        replies = [
            Reply(self.weights[client] / self.mass, self.samples[client], report.statistic)
            for client, report in self.applied.items()
        ]
        share = 1.0 if pool is None else self.mass / pool
        return Evidence(replies, gradient_square, samples, spread, share)

    def measured(self) -> Measured | None:
        """The weighted means of what the clients measured."""
        if not self.measured_mass:
            return None
        bias, gradient = self.squares / self.measured_mass
        return Measured(float(bias), float(gradient))


def opened(
    report: Report, round: int, point: Vector, buffers: Vector | None, radius: float | None
) -> tuple[Vector, Vector | None]:
    """The report's vectors, once everything that can be wrong with it was checked (ValueError).

    Parameters
    ----------
    round : int
        The round that was asked for.
    point, buffers : ndarray
        What the plan carried: its vectors have these lengths and dtypes.
    radius : float or None
        That of the plan.
    """
    if report.round != round:
        raise ValueError(f"the report is of round {report.round}, not {round}")
    if not 1 <= report.examples <= LARGEST or not np.isfinite(report.loss):
        raise ValueError(f"{report.examples} examples with a loss of {report.loss}")
    vector = vector_like(point, report.packet, radius)
    if buffers is None:
        return vector, None
    if report.buffers is None:
        raise PacketError("the report lacks the buffers that the plan carried")
    check_directions(report.buffers, 0)  # they come uncompressed
    return vector, vector_like(buffers, report.buffers)


def vector_like(known: Vector, packet: Packet, radius: float | None = None) -> Vector:
    """A packet's vector, if it has the known one's length and dtype and is finite (PacketError)."""
    vector = decode(packet, radius, dim=known.size)
    if vector.dtype != known.dtype:
        raise PacketError(f"the packet has dtype {vector.dtype}, not {known.dtype}")
    return finite(vector)


def finite(vector: Vector) -> Vector:
    """The vector, if all its entries are finite (PacketError)."""
    known = np.isfinite(vector)
    if not known.all():
        raise PacketError(f"{int((~known).sum())} entries are NaN or infinite")
    return vector
