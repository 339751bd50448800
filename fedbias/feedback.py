"""What a client remembers of what compression lost.

Pure given the turn's memory, which the exactly-once protocol commits or rolls back
(:mod:`fedbias.ledger`). u is what is compressed, q = C(u) what arrives, e = q − u.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from fedbias import checks, theory
from fedbias.compressors import Compressor
from fedbias.notation import setting
from fedbias.optimizers import Nesterov, Optimizer
from fedbias.packets import Packet, decode
from fedbias.preset import PresetRadius, Schedule
from fedbias.randomness import Purpose
from fedbias.turn import Turn
from fedbias.vectors import Vector, norm

_ERROR, _EARLIER, _GRADIENT = "feedback.error", "feedback.earlier", "feedback.gradient"
_ROUNDING = 1 + 1e-6  # a vector is longer than the radius beyond a millionth of it


class Feedback(ABC):
    """How a vector becomes a packet, given what earlier packets lost.

    Attributes
    ----------
    radius : PresetRadius or None
        None: each packet carries its own scale. A preset schedule costs no bits; it is for one
        client, or identical ones of which all take part.
    methods : tuple of str
        The server's steps that the schedule is known for.
    """

    name: ClassVar[str]
    radius: PresetRadius | None
    methods: ClassVar[tuple[str, ...]] = ("gradient_descent",)
    shifts: ClassVar[bool] = False  # takes its estimates elsewhere than at the plan's point
    pooled: ClassVar[bool] = False  # the step goes along the mean of everyone's h_m
    stateless: ClassVar[bool] = False  # a client that lost its memory lost nothing

    def __post_init__(self) -> None:
        if self.radius is not None:
            example = "preset_radius(lipschitz=1.0, strong_convexity=0.1, distance=2.0)"
            checks.instance(self.name, "radius", self.radius, PresetRadius, f"None or {example}")

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """Of the preset radii."""

    @property
    def remembers(self) -> bool:
        """Whether the server keeps h_m of every client, and a packet says h_m's change."""
        return False

    def query(self, point: Vector, turn: Turn) -> Vector:
        """Where to take the estimate, for a plan's point."""
        return point

    @abstractmethod
    def encode(self, vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
        """The packet to send for an estimate, shape (dim,); may replace entries of turn.memory."""

    def sent(self, packet: Packet, turn: Turn) -> Vector:
        """What the server makes of the packet just encoded."""
        return turn.memory[_GRADIENT] if self.remembers else decode(packet, turn.radius)


@setting("no_feedback")
class NoFeedback(Feedback):
    """Send C(g) and forget: no state, and the compressor's bias stays in the trajectory.

    Right where the compressor is unbiased or nearly lossless. With a preset radius it is the naive
    quantization that arXiv 2002.02508 compares with.
    """

    radius: PresetRadius | None = None
    stateless = True

    @property
    def schedule(self) -> Schedule:
        return theory.naive_radii

    def encode(self, vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
        return _compressed(vector, compressor, turn)


@setting("error_feedback")
class ErrorFeedback(Feedback):
    """Send C(g + e) and keep e ← g + e − C(g + e) (Seide et al. 2014; Karimireddy et al. 2019).

    The sum of all that was sent plus e is the sum of all g: what is dropped comes late, not never.
    Needs a contractive compressor (top_k, sign; uniform with enough bits: see the contraction of
    ``guarantee(dim)``): where its error can exceed the vector (random_k) e grows without bound.
    The client keeps two vectors, the committed e and the pending one. With heterogeneous clients a
    floor stays that shrinks with the step size; it is NOT removed.
    """

    radius: PresetRadius | None = None

    @property
    def schedule(self) -> Schedule:
        return theory.error_feedback_radii

    def encode(self, vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
        error = turn.memory.get(_ERROR)
        corrected = vector if error is None else vector + error
        packet = _compressed(corrected, compressor, turn)
        turn.memory[_ERROR] = corrected - decode(packet, turn.radius)
        return packet


@setting("ef21")
class EF21(Feedback):
    """Send C(g − h) and move h by it, on both sides (Richtárik, Sokolov and Fatkhullin 2021).

    The server steps along the mean of h_m over all enrolled clients, those that are silent in a
    round included; unseen ones count as 0. Right for heterogeneous clients and partial
    participation: with a contractive compressor and full gradients h_m → ∇f_m, no floor. The
    server keeps dim numbers per client. NOT guaranteed: an advantage where gradients are noisy or
    clients alike; convergence at the step size of the uncompressed method.
    """

    radius: PresetRadius | None = None
    pooled = True

    @property
    def schedule(self) -> Schedule:
        return theory.ef21_radii

    @property
    def remembers(self) -> bool:
        return True

    def encode(self, vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
        known = turn.memory.get(_GRADIENT)
        packet = _compressed(vector if known is None else vector - known, compressor, turn)
        turn.memory[_GRADIENT] = moved(known, decode(packet, turn.radius))
        return packet


@setting("differential")
class Differential(Feedback):
    """Differential quantization (arXiv 2002.02508): the unquantized trajectory at R bits.

    The client takes its gradient at z_i = x̂_i + η·s_i, where the server would be without its
    errors, and sends C(∇f(z_i) − c_i): c_i = (1+γ)e_{i−1} − γe_{i−2} undoes what earlier errors did
    to the step; s_i = c_i for nesterov, e_{i−1} for gradient_descent (γ = 0) and polyak.

    Right for one client, or clients that are alike: with exact gradients every z_i IS the
    unquantized iterate, and x̂_i = z_i − ηs_i. The model is x̂_i: it follows z_i only where e_i
    shrinks, with preset ranges for R above :func:`fedbias.theory.lossless_rate`, which grows with
    log₂ρ and so with the dimension. ``memory=True`` (u = ∇f(z) − h − c, h ← h + q on both
    sides, the server keeps h_m) is for heterogeneous clients that all take part, and needs errors
    below a third of the vector. NOT guaranteed: anything exact for heterogeneous clients (without
    memory a floor stays), for partial participation, for mini-batches. The report's loss, that of
    the model, costs another pass over the data.
    """

    radius: PresetRadius | None = None
    memory: bool = False
    methods = theory.METHODS
    shifts = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag(self.name, "memory", self.memory)

    @property
    def schedule(self) -> Schedule:
        return theory.memory_radii if self.memory else theory.differential_radii

    @property
    def remembers(self) -> bool:
        return self.memory

    def query(self, point: Vector, turn: Turn) -> Vector:
        """z_i = x̂_i + η·s_i."""
        step = _step(turn)
        error = _compensation(turn) if isinstance(step, Nesterov) else turn.memory.get(_ERROR)
        return point if error is None else point + step.step_size * error

    def encode(self, vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
        compensation, known = _compensation(turn), turn.memory.get(_GRADIENT)
        target = vector if compensation is None else vector - compensation
        if self.memory and known is not None:
            target = target - known
        packet = _compressed(target, compressor, turn)
        arrived = decode(packet, turn.radius)
        if _momentum(turn) and _ERROR in turn.memory:
            turn.memory[_EARLIER] = turn.memory[_ERROR]
        turn.memory[_ERROR] = arrived - target
        if self.memory:
            turn.memory[_GRADIENT] = moved(known, arrived)
        return packet


def moved(known: Vector | None, change: Vector) -> Vector:
    """H + q, with 0 for an h that is not there; the same on both sides, bit for bit."""
    return change if known is None else known + change


def _compensation(turn: Turn) -> Vector | None:
    """c_i = (1+γ)e_{i−1} − γe_{i−2}; None where it is 0."""
    last, earlier, gamma = turn.memory.get(_ERROR), turn.memory.get(_EARLIER), _momentum(turn)
    if last is None or not gamma:
        return last
    return (1 + gamma) * last if earlier is None else (1 + gamma) * last - gamma * earlier


def _momentum(turn: Turn) -> float:
    """γ of the server's step; 0 for gradient descent."""
    return float(getattr(_step(turn), "momentum", 0.0))


def _step(turn: Turn) -> Optimizer:
    if turn.shift is None:
        raise ValueError("differential: the plan does not say what the server's step is")
    return turn.shift


def _compressed(vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
    if turn.radius is not None:
        turn.saturated = norm(vector) > turn.radius * _ROUNDING
    return compressor.encode(vector, turn.rng(Purpose.COMPRESS), turn.radius)


no_feedback, error_feedback, ef21, differential = NoFeedback, ErrorFeedback, EF21, Differential
