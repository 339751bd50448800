"""What a client remembers of what compression lost.

Pure given the turn's memory, which the exactly-once protocol commits or rolls back
(:mod:`fedbias.ledger`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from fedbias.compressors import Compressor
from fedbias.notation import setting
from fedbias.packets import Packet, decode
from fedbias.randomness import Purpose
from fedbias.turn import Turn
from fedbias.vectors import Vector

_ERROR = "feedback.error"


class Feedback(ABC):
    """How a vector becomes a packet, given what earlier packets lost."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
        """The packet to send for an estimate, shape (dim,); may replace entries of turn.memory."""


@setting("no_feedback")
class NoFeedback(Feedback):
    """Send C(g) and forget: no state, and the compressor's bias stays in the trajectory."""

    def encode(self, vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
        return compressor.encode(vector, turn.rng(Purpose.COMPRESS))


@setting("error_feedback")
class ErrorFeedback(Feedback):
    """Send C(g + e) and keep e ← g + e − C(g + e) (Seide et al. 2014; Karimireddy et al. 2019).

    The sum of all that was sent plus e is the sum of all g: what is dropped comes late, not never.
    Needs a contractive compressor (top_k, sign, uniform): with an unbiased one whose error can
    exceed the vector (random_k) e grows without bound. The client keeps two vectors, the committed
    e and the pending one. With heterogeneous clients a floor stays that shrinks with the step
    size; it is NOT removed.
    """

    def encode(self, vector: Vector, compressor: Compressor, turn: Turn) -> Packet:
        error = turn.memory.get(_ERROR)
        corrected = vector if error is None else vector + error
        packet = compressor.encode(corrected, turn.rng(Purpose.COMPRESS))
        turn.memory[_ERROR] = corrected - decode(packet)
        return packet


no_feedback, error_feedback = NoFeedback, ErrorFeedback
