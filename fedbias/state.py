"""What changes on the server, and what became of one round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedbias.optimizers import State
from fedbias.rounds import Measured
from fedbias.sharpness import Reading
from fedbias.vectors import Vector


@dataclass(frozen=True)
class ServerState:
    """All that changes on the server.

    Attributes
    ----------
    round : int
        k, the next round to plan.
    point : ndarray, shape (dim,)
        x_k.
    optimizer : mapping of str to ndarray
    acknowledged : mapping of int to int
        For each client the round of its last applied report.
    counts : mapping of int to int
        For each client its applied reports, since it last lost its memory: the place in a preset
        schedule.
    memories : mapping of int to ndarray
        h_m of each client that was applied, where the feedback keeps it.
    enrolled : mapping of int to int
        Client → examples, of everyone who ever could take part.
    batch_size : int or None
        b of the round to plan; None before a rule chose one.
    samples : int
        Examples that all applied estimates were made of.
    variances : mapping of str to (int, float)
        For each kind of estimate the rounds that measured its variance, and their running mean;
        where the weights follow from it.
    buffers : ndarray or None
        The clients' mean of what training changes besides the point.
    sharpness : Reading or None
        The last one.
    step_size : float or None
        Where it follows from the sharpness and one was measured.
    """

    point: Vector
    round: int = 0
    optimizer: State = field(default_factory=dict)
    acknowledged: Mapping[int, int] = field(default_factory=dict)
    counts: Mapping[int, int] = field(default_factory=dict)
    memories: Mapping[int, Vector] = field(default_factory=dict)
    enrolled: Mapping[int, int] = field(default_factory=dict)
    batch_size: int | None = None
    samples: int = 0
    variances: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    buffers: Vector | None = None
    sharpness: Reading | None = None
    step_size: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one round's reports.

    Attributes
    ----------
    applied : tuple of int
        The clients whose reports moved the model, in order; empty if too few were valid.
    received : int
        Valid reports, whether or not there were enough of them.
    refused : mapping of int to str
        Client → why its report was refused.
    forgotten : tuple of int
        The applied clients that had lost their memory.
    saturated : tuple of int
        The applied clients whose vector was longer than its preset radius.
    loss : float
        The weighted mean of the clients' losses at x_k; NaN without any.
    gradient_norm : float
        ‖ĝ‖ of the decoded mean; NaN without any.
    payload_bits, wire_bits : int
        Of all the valid packets received.
    batch_size : int or None
        b that the round's plans asked for; clients with less data took less.
    samples : int
        Examples that the applied estimates were made of.
    wanted : float
        The next b that a batch-size test asked for, before its limits; NaN without one, or where it
        is not defined.
    computed : int
        Example gradients that the applied clients computed, or losses.
    dropped : int
        Directions that the applied clients left out because the loss there was not finite.
    step_size : float
        Of the step; NaN without one.
    stability_limit : float
        The curvature above which such steps do not converge on a quadratic; NaN where no limit is
        known.
    pairs : tuple of (int, int)
        The clients that met, in a decentralized round.
    measured : Measured or None
        The weighted means over the applied clients that measured. If they are all the clients
        there are, they are at least ‖b_k‖² and ‖∇f(x_k)‖² of the averaged estimate (Jensen), and
        equal to them for clients that are alike. Otherwise b_k holds the error of the sample too,
        which no client sees.
    """

    applied: tuple[int, ...] = ()
    received: int = 0
    refused: Mapping[int, str] = field(default_factory=dict)
    forgotten: tuple[int, ...] = ()
    saturated: tuple[int, ...] = ()
    loss: float = float("nan")
    gradient_norm: float = float("nan")
    payload_bits: int = 0
    wire_bits: int = 0
    batch_size: int | None = None
    samples: int = 0
    wanted: float = float("nan")
    computed: int = 0
    dropped: int = 0
    step_size: float = float("nan")
    stability_limit: float = float("nan")
    pairs: tuple[tuple[int, int], ...] = ()
    measured: Measured | None = None
