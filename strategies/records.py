"""One line per round: what happened, as measured."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .sharpness import Survey
from .tally import Tally

_LOG = logging.getLogger("flwr")


@dataclass(frozen=True)
class RoundRecord:
    """What the server measured in one round.

    Attributes
    ----------
    round : int
        k ≥ 1: the record describes the step from x_{k−1} to x_k. Round 0 is the start.
    train_loss : float or None
        The weighted mean of the clients' losses at x_{k−1}, on the examples they looked at
        (differential feedback: on all of them).
    test_loss, accuracy : float or None
        Central evaluation of x_k, in rounds that evaluate.
    spread : float or None
        Γ, the mean squared distance of the clients' models from their mean, in rounds that
        evaluate; where clients own their models, x_k is that mean, and losses are at their own.
    models : int or None
        How many models that mean is of.
    client_loss, client_accuracy : float or None
        Evaluation of x_k on the clients' own data, weighted by examples, in rounds that do.
    uplink_bytes, downlink_bytes : int
        Packets received and sent for training in this round, without Flower's envelope.
    evaluation_bytes : int or None
        Packets sent and received to see the clients' models, beside those for training.
    header_bytes : int
        The reports' JSON headers, received beside the packets.
    total_uplink_bytes : int
        uplink_bytes of all the rounds so far.
    applied, refused, lost : int
        Reports that moved the model, reports that were refused, replies that never came.
    forgotten : int
        Applied reports of clients that had lost their memory; where clients own their models,
        those that had lost them and begin again.
    saturated : int
        Applied reports whose vector was longer than its preset radius.
    batch_size : int or None
        b that the round's plans asked each client for; those with less data took less.
    samples, total_samples : int
        Examples that the applied estimates were made of, in this round and in all so far.
    wanted_batch_size : float or None
        The next b that a batch-size test asked for, before its limits.
    computed : int
        Example gradients that the applied clients computed, or losses.
    dropped : int
        Directions that the applied clients left out because the loss there was not finite.
    pairs : int or None
        How many pairs met, where clients own their models.
    refusals : dict of str to str
        Client → why its reply was refused.
    gradient_norm : float or None
        ‖ĝ‖ of the decoded mean.
    bias_square, gradient_square : float or None
        In rounds that measure the bias: the means over the applied clients of ‖sent − ∇f_m‖² and
        of ‖∇f_m‖² at x_{k−1}. Where everyone was applied they are at least ‖b_{k−1}‖² and
        ‖∇f(x_{k−1})‖².
    step_size : float or None
        Of the step.
    stability_limit : float or None
        The curvature above which such steps do not converge on a quadratic: 2/η of plain ones.
    sharpness : float or None
        λ̂ at x_{k−1}, the top eigenvalue of the measured clients' mean Hessian, in rounds that
        measure it.
    sharpness_residual : float or None
        That Hessian has an eigenvalue within it of λ̂.
    sharpness_spread : float or None
        The standard error of λ̂ where a sample of several clients was measured; 0 for all.
    sharpness_clients, sharpness_products : int or None
        How many clients, and how many products each.
    sharpness_bytes : int or None
        Sent and received for it, beside those for training.
    unmeasured : str or None
        Why the sharpness was not measured in a round that should have.
    seconds : float
        Since the start of the run.
    """

    round: int
    seconds: float
    train_loss: float | None = None
    test_loss: float | None = None
    accuracy: float | None = None
    spread: float | None = None
    models: int | None = None
    client_loss: float | None = None
    client_accuracy: float | None = None
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    evaluation_bytes: int | None = None
    header_bytes: int = 0
    total_uplink_bytes: int = 0
    applied: int = 0
    refused: int = 0
    lost: int = 0
    forgotten: int = 0
    saturated: int = 0
    gradient_norm: float | None = None
    bias_square: float | None = None
    gradient_square: float | None = None
    batch_size: int | None = None
    samples: int = 0
    total_samples: int = 0
    wanted_batch_size: float | None = None
    computed: int = 0
    dropped: int = 0
    pairs: int | None = None
    step_size: float | None = None
    stability_limit: float | None = None
    sharpness: float | None = None
    sharpness_residual: float | None = None
    sharpness_spread: float | None = None
    sharpness_clients: int | None = None
    sharpness_products: int | None = None
    sharpness_bytes: int | None = None
    unmeasured: str | None = None
    refusals: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, number: int, seconds: float, total: int, tally: Tally, **metrics: Any
    ) -> RoundRecord:
        """The record of a round, from what was counted in it."""
        outcome, measured = tally.outcome, tally.outcome.measured
        return cls(
            round=number,
            seconds=seconds,
            train_loss=_known(outcome.loss),
            uplink_bytes=outcome.wire_bits // 8,
            downlink_bytes=tally.downlink_bytes,
            header_bytes=tally.header_bytes,
            total_uplink_bytes=total,
            applied=len(outcome.applied),
            refused=len(outcome.refused),
            lost=tally.asked - tally.heard,
            forgotten=len(outcome.forgotten),
            saturated=len(outcome.saturated),
            gradient_norm=_known(outcome.gradient_norm),
            bias_square=measured.bias_square if measured else None,
            gradient_square=measured.gradient_square if measured else None,
            batch_size=outcome.batch_size,
            samples=outcome.samples,
            wanted_batch_size=_known(outcome.wanted),
            computed=outcome.computed,
            dropped=outcome.dropped,
            step_size=_known(outcome.step_size),
            stability_limit=_known(outcome.stability_limit),
            **_surveyed(tally.survey),
            refusals={str(client): why for client, why in outcome.refused.items()},
            **metrics,
        )

    def goals(self) -> dict[str, float | None]:
        """What :class:`fedbias.stopping.Until` looks at."""
        return {
            "accuracy": self.accuracy,
            "loss": self.test_loss,
            "gradient_norm": self.gradient_norm,
            "uplink_bytes": self.total_uplink_bytes,
            "seconds": self.seconds,
            "samples": self.total_samples,
        }

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _surveyed(survey: Survey | None) -> dict[str, Any]:
    """The fields of a measurement of the sharpness."""
    if survey is None:
        return {}
    common = {"sharpness_bytes": survey.wire_bytes, "unmeasured": survey.failure}
    reading = survey.reading
    if reading is None:
        return common
    return common | {
        "sharpness": reading.value,
        "sharpness_residual": reading.residual,
        "sharpness_spread": reading.spread,
        "sharpness_clients": reading.clients,
        "sharpness_products": reading.products,
    }
