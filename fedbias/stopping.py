"""When the server stops, by what it measured itself."""

from __future__ import annotations

from collections.abc import Mapping

from fedbias import checks
from fedbias.feedback import Feedback
from fedbias.notation import setting


@setting("until")
class Until:
    """Stop as soon as ANY of the given goals is reached.

    ``accuracy`` and ``loss`` are those of central evaluation, in rounds that evaluate;
    ``gradient_norm`` is ‖ĝ‖ of the decoded mean estimate (NOT of the exact gradient);
    ``uplink_bytes`` counts all the packets received so far; ``seconds`` since the start of the run;
    ``samples`` are the examples that all applied estimates were made of.
    """

    accuracy: float | None = None  # stop at ≥
    loss: float | None = None  # stop at ≤
    gradient_norm: float | None = None  # stop at ≤
    uplink_bytes: int | None = None  # stop at ≥
    seconds: float | None = None  # stop at ≥
    samples: int | None = None  # stop at ≥

    def __post_init__(self) -> None:
        if self.accuracy is not None:
            checks.real("until", "accuracy", self.accuracy, above=0, most=1)
        if self.loss is not None:
            checks.real("until", "loss", self.loss)
        for field in ("gradient_norm", "uplink_bytes", "seconds", "samples"):
            if getattr(self, field) is not None:
                checks.real("until", field, getattr(self, field), least=0)

    def check(self, feedback: Feedback) -> None:
        """Refuse a goal that says nothing under this feedback (ValueError)."""
        if self.gradient_norm is not None and feedback.radius is not None:
            raise ValueError(
                "until: gradient_norm is that of what clients send, which with a preset radius may "
                "be 0 from the first round on: use loss, accuracy or uplink_bytes"
            )

    def reached(self, measured: Mapping[str, float | None]) -> str | None:
        """The first goal that is reached, as a sentence; None to go on.

        ``measured`` maps the goals' names to what was measured; what was not is missing or None.
        """
        for name, rises in _RISES.items():
            goal, value = getattr(self, name), measured.get(name)
            if (
                goal is not None
                and value is not None
                and (value >= goal if rises else value <= goal)
            ):
                return f"{name} {_written(value)} reached {_written(goal)}"
        return None


def _written(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"


_RISES = {
    "accuracy": True,
    "loss": False,
    "gradient_norm": False,
    "uplink_bytes": True,
    "seconds": True,
    "samples": True,
}
until = Until
