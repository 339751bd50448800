"""One estimator per capability, for federations whose clients differ in what they can compute."""

from __future__ import annotations

from collections.abc import Mapping

from fedbias import checks
from fedbias.notation import setting
from fedbias.objectives import MissingCapability, Objective, capabilities
from fedbias.turn import Turn
from fedbias.vectors import Vector

from .base import Estimate, Estimator

_ORDER = ("gradient", "directional", "loss")  # every client has its loss


@setting("by_capability")
class ByCapability(Estimator):
    """The first of these that the client can compute: from gradients, slopes, or losses.

    Each may ask for the capability it stands under alone; ``hvp`` comes with ``gradient``.
    """

    gradient: Estimator | None = None
    directional: Estimator | None = None
    loss: Estimator | None = None

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError(f"by_capability: name an estimator for one of {', '.join(_ORDER)}")
        for kind, estimator in self.kinds.items():
            example = "two_point(directions=8, radius=0.001)"
            checks.instance(self.name, kind, estimator, Estimator, example)
            if isinstance(estimator, ByCapability):
                raise ValueError(f"by_capability: {kind} must be a single estimator")
            allowed = {kind, "hvp"} if kind == "gradient" else {kind}
            if beyond := sorted(estimator.needs - allowed):
                raise ValueError(
                    f"by_capability: {kind}={estimator} needs {' and '.join(beyond)}, which "
                    f"clients with {kind} alone do not have"
                )

    def estimate(self, objective: Objective, point: Vector, turn: Turn) -> Estimate:
        return self.kinds[self.kind_of(objective)].estimate(objective, point, turn)

    @property
    def kinds(self) -> Mapping[str, Estimator]:
        named = {kind: getattr(self, kind) for kind in _ORDER}
        return {kind: estimator for kind, estimator in named.items() if estimator is not None}

    def kind_of(self, objective: Objective) -> str:
        able = capabilities(objective)
        for kind, estimator in self.kinds.items():
            if estimator.needs <= able:
                return kind
        raise MissingCapability(
            f"{type(objective).__name__} offers {', '.join(sorted(able)) or 'its loss alone'}, and "
            f"the server asks for {' or '.join(self.kinds)}: name an estimator for loss"
        )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()  # nothing of everybody

    @property
    def draws_batches(self) -> bool:
        return any(estimator.draws_batches for estimator in self.kinds.values())

    @property
    def aims_at_gradient(self) -> bool:
        return all(estimator.aims_at_gradient for estimator in self.kinds.values())


def as_estimator(value: Estimator | Mapping[str, Estimator]) -> Estimator:
    """An estimator, or a mapping from capability to estimator, as one (ValueError if neither)."""
    if isinstance(value, Mapping):
        if unknown := [name for name in value if name not in _ORDER]:
            raise ValueError(
                f"estimator: there is no capability {unknown[0]!r}; known: {', '.join(_ORDER)}"
            )
        return ByCapability(**value)
    checks.instance("algorithm", "estimator", value, Estimator, "exact()")
    return value


by_capability = ByCapability
