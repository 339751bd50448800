"""The settings that decide a trajectory, and which of them fit together."""

from __future__ import annotations

from dataclasses import dataclass

from fedbias import checks
from fedbias.batching import BatchSize, as_batch_size
from fedbias.compressors import Compressor, identity
from fedbias.decay import Decay, no_decay
from fedbias.estimators import Estimator, LocalSteps, exact
from fedbias.feedback import Feedback, no_feedback
from fedbias.notation import plain_numbers
from fedbias.optimizers import Optimizer
from fedbias.sharpness import BySharpness, Lanczos, as_lanczos


@dataclass(frozen=True)
class Algorithm:
    """All the settings that decide a trajectory, beside the objectives and the start.

    Attributes
    ----------
    batch_size : BatchSize, int or None
        b for estimators that draw batches, or the rule that chooses it; None means all the data.
    decay : Decay
        How the step size falls with the samples.
    weights : {"uniform", "examples", "inverse_variance"}
        How the mean over clients is weighted, see :func:`fedbias.run`.
    minimum_replies : int
        Fewer valid reports than this leave the model untouched.
    measure_bias : int
        In every so many rounds the clients report how far their packets are from their exact
        gradients, which costs them one more full gradient; 0 for never.
    sharpness : Lanczos, int or None
        When and how the sharpness of the mean loss is measured; n is every n rounds.
    steering : BySharpness or None
        What the step size makes of it.
    """

    optimizer: Optimizer
    estimator: Estimator = exact()
    compressor: Compressor = identity()
    feedback: Feedback = no_feedback()
    batch_size: BatchSize | int | None = None
    weights: str = "uniform"
    minimum_replies: int = 1
    seed: int = 0
    measure_bias: int = 0
    decay: Decay = no_decay()
    sharpness: Lanczos | int | None = None
    steering: BySharpness | None = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        kinds: dict[str, tuple[type, str]] = {
            "optimizer": (Optimizer, "gradient_descent(step_size=0.1)"),
            "estimator": (Estimator, "exact()"),
            "compressor": (Compressor, "identity()"),
            "feedback": (Feedback, "no_feedback()"),
            "decay": (Decay, "cosine_decay(samples=100000)"),
        }
        if self.steering is not None:
            kinds["steering"] = (BySharpness, "by_sharpness(c=1.0)")
        for name, (kind, example) in kinds.items():
            checks.instance("algorithm", name, getattr(self, name), kind, example)
        checks.choice(
            "algorithm", "weights", self.weights, ("uniform", "examples", "inverse_variance")
        )
        checks.whole("algorithm", "minimum_replies", self.minimum_replies, least=1)
        checks.whole("algorithm", "measure_bias", self.measure_bias, least=0)
        checks.whole("algorithm", "seed", self.seed, least=0, most=2**63 - 1)
        self._check_batches()
        self._check_weights()
        self._check_feedback()
        self._check_steering()

    @property
    def measuring(self) -> Lanczos | None:
        """When and how the sharpness is measured; None for never."""
        return as_lanczos(self.sharpness)

    @property
    def batching(self) -> BatchSize | None:
        """The rule for b; None means all the data."""
        return as_batch_size(self.batch_size)

    @property
    def stability(self) -> float | None:
        """Below which ηλ the steps converge on a quadratic; None where that is not known."""
        return self.optimizer.stability if self.estimator.aims_at_gradient else None

    def weight(self, examples: int) -> float:
        """What a client of so many examples weighs beside another one of its kind."""
        return float(examples) if self.weights == "examples" else 1.0

    def _check_weights(self) -> None:
        if self.weights != "inverse_variance":
            return
        if len(self.estimator.kinds) < 2:
            raise ValueError(
                f"algorithm: weights='inverse_variance' compares kinds of estimates, and "
                f"{self.estimator} is one: use by_capability(…), or uniform weights"
            )
        if self.feedback.remembers:
            raise ValueError(
                f"algorithm: weights='inverse_variance' weighs a round's replies, and "
                f"{self.feedback} steps along everybody's memory: use uniform weights"
            )

    def _check_batches(self) -> None:
        rule, estimator = self.batching, self.estimator
        if rule is None:
            return
        if not estimator.draws_batches:
            raise ValueError(
                f"algorithm: batch_size={self.batch_size} has no meaning for {estimator}, "
                "which uses all the data; use minibatch()"
            )
        if rule.measures is None:
            return
        pseudo = isinstance(estimator, LocalSteps) and not rule.local
        if pseudo or estimator.measuring_needs is None:
            other = "local_norm_test or " if isinstance(estimator, LocalSteps) else ""
            raise ValueError(
                f"algorithm: {rule.name} measures the examples of a plain batch, not of "
                f"{estimator}: use minibatch(), or {other}cross_client_test"
            )

    def _check_feedback(self) -> None:
        feedback, preset = self.feedback, self.feedback.radius
        if self.decay != no_decay() and (feedback.shifts or preset is not None):
            raise ValueError(
                f"{feedback} counts on a constant step size: use no_decay(), or ef21()"
            )
        if feedback.shifts and self.optimizer.name not in feedback.methods:
            raise ValueError(
                f"{feedback} undoes what its errors did to {', '.join(feedback.methods)}; what "
                f"{self.optimizer} makes of an error depends on more than the last two of them: "
                "use ef21() or error_feedback()"
            )
        if preset is None:
            return
        if self.optimizer.name not in feedback.methods:
            known = ", ".join(feedback.methods)
            raise ValueError(
                f"{feedback.name} has a preset schedule for {known} alone, not for "
                f"{self.optimizer}: use radius=None"
            )
        preset.method(self.optimizer)
        if self.estimator != exact():
            raise ValueError(
                f"a preset radius bounds exact gradients, not {self.estimator}: use radius=None"
            )
        if not self.compressor.takes_radius or self.compressor.guarantee(1).covering is None:
            raise ValueError(
                f"{self.compressor} cannot be told a radius (uniform, dithered and lattice can): "
                "use radius=None"
            )

    def _check_steering(self) -> None:
        rule, limit, measuring = self.steering, self.stability, self.measuring
        if rule is None:
            return
        if measuring is None:
            raise ValueError(f"{rule} needs the sharpness to be measured: sharpness=lanczos()")
        if self.decay != no_decay():
            raise ValueError(f"{rule} and {self.decay} both set the step size: use one of them")
        if self.feedback.shifts or self.feedback.radius is not None:
            raise ValueError(
                f"{self.feedback} counts on a constant step size, which {rule} is not: use ef21() "
                "or error_feedback()"
            )
        if not self.estimator.aims_at_gradient:
            raise ValueError(
                f"{rule} sizes steps along gradients, and {self.estimator} is none: use exact(), "
                "minibatch() or another estimate of the gradient"
            )
        if limit is None:
            raise ValueError(
                f"{rule} knows no limit for {self.optimizer}: use gradient_descent, heavy_ball, "
                "polyak or nesterov"
            )
        if rule.c >= limit:
            raise ValueError(
                f"by_sharpness: c must be > 0 and < {limit:g}, where {self.optimizer} stops being "
                f"stable, not {rule.c:g}"
            )
