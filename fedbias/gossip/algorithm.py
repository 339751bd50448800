"""The settings that decide a decentralized run, and which of them fit together."""

from __future__ import annotations

from dataclasses import dataclass

from fedbias import checks
from fedbias.compressors import Compressor, identity
from fedbias.decay import Decay, no_decay
from fedbias.estimators import Estimator, exact
from fedbias.feedback import EF21, Feedback, NoFeedback, no_feedback
from fedbias.notation import plain_numbers

from .matchings import Matching, random_matching


@dataclass(frozen=True)
class GossipAlgorithm:
    """All the settings that decide a trajectory, beside the objectives and the starts.

    Attributes
    ----------
    step_size : float
        η in X' = X − η·g, at most; with ``local_steps`` as estimator 1 is what its steps made.
    decay : Decay
        How the step size falls with the samples so far, of everybody.
    compressor, feedback
        How models travel: as they are, or as ``ef21()`` sends their changes.
    batch_size : int or None
        b for estimators that draw batches; None means all the data.
    mixing : float
        Share of the way to its pair's mean that a model goes. With ``ef21()`` and a compressor that
        loses much, 1 is too far (Koloskova, Stich and Jaggi 2019: γ): six models of ten entries
        came apart with ``top_k(0.1)`` at 1, and together at .3.
    """

    estimator: Estimator = exact()
    matching: Matching = random_matching()
    step_size: float = 1.0  # η
    decay: Decay = no_decay()
    compressor: Compressor = identity()
    feedback: Feedback = no_feedback()
    batch_size: int | None = None
    mixing: float = 1.0  # γ
    seed: int = 0

    def __post_init__(self) -> None:
        plain_numbers(self)
        kinds: dict[str, tuple[type, str]] = {
            "estimator": (Estimator, "exact()"),
            "matching": (Matching, "random_matching()"),
            "decay": (Decay, "cosine_decay(samples=100000)"),
            "compressor": (Compressor, "identity()"),
            "feedback": (Feedback, "no_feedback()"),
        }
        for name, (kind, example) in kinds.items():
            checks.instance("gossip", name, getattr(self, name), kind, example)
        checks.real("gossip", "step_size", self.step_size, least=0)
        checks.real("gossip", "mixing", self.mixing, above=0, most=1)
        checks.whole("gossip", "seed", self.seed, least=0, most=2**63 - 1)
        if self.batch_size is not None:
            checks.whole("gossip", "batch_size", self.batch_size, least=1)
            if not self.estimator.draws_batches:
                raise ValueError(f"gossip: batch_size has no meaning for {self.estimator}")
        if not isinstance(self.feedback, NoFeedback | EF21) or self.feedback.radius is not None:
            raise ValueError(
                f"gossip: clients send models, not gradients, and {self.feedback} does not know "
                "them: use no_feedback() or ef21()"
            )
