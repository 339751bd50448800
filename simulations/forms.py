"""One model on the server, or one per client; clients that have gradients, or have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fedbias as fb

if TYPE_CHECKING:
    from .settings import Settings

_SHARED = (
    "weights",
    "broadcast",
    "fraction",
    "minimum_replies",
    "measure_bias",
    "client_evaluation_every",
    "cohort",
    "sharpness",
    "steering",
)


def check_forms(settings: Settings, estimator: fb.Estimator) -> None:
    """Refuse settings of one form in the other (ValueError)."""
    alone = settings.forward_only
    if alone > settings.clients:
        raise ValueError(
            f"forward_only = {alone}: must be at most the number of clients, {settings.clients}"
        )
    if alone and all(each.needs for each in estimator.kinds.values()):
        raise ValueError(
            f"forward_only = {alone}: {estimator} asks everybody for more than a loss: set "
            "estimator = by_capability(gradient=minibatch(), loss=two_point(directions=8, "
            "radius=0.001))"
        )
    if not settings.matching:
        if settings.mixing != 1:
            raise ValueError(f"mixing = {settings.mixing}: has no meaning without matching")
        return
    if settings.clients < 2:
        raise ValueError("clients = 1: nobody could be matched with anybody")
    if not settings.evaluate_every:
        raise ValueError("evaluate_every = 0: with matching, what is kept is an evaluated mean")
    usual = type(settings).model_fields
    for key in _SHARED:
        value = getattr(settings, key)
        if value != usual[key].default:
            raise ValueError(
                f"{key} = {value!r} is for one model on the server: it has no meaning with matching"
            )
