"""Tests of the federation's mean gradient: the server decides from what all clients sent."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedbias.notation import setting
from fedbias.objectives import Statistics

from .base import BatchTest, Evidence, Reply, ratio


@setting("norm_test")
class NormTest(BatchTest):
    """V ≤ η²‖ĝ‖² for the variance V = Σ w_m² tr Σ_m/b_m of the federation's mean gradient.

    Clients send n_m and tr Σ_m of their own UNCOMPRESSED example gradients, the server knows the
    b_m that it asked for; ĝ is the decoded mean. If V is larger, b is multiplied by V/(η²‖ĝ‖²). V
    has the noise of the batches alone, not how clients differ, so it is for data of any kind. The
    server must not merge by total variance from scalars: it does not know ‖Σ w_m g_m‖² without the
    vectors.

    NOT guaranteed: ĝ holds what compression did to it, and its own noise, by which ‖ĝ‖² exceeds
    ‖∇f‖² by V on average; a round with a statistic that is not finite changes nothing, and one
    client's huge one raises b to the maximum for good. Batches without repetition
    (``order="reshuffle"``) have (1 − b_m/n_m) times the noise that is counted. With ``ef21`` the
    memories of silent clients count as being as noisy as the replies. On digits
    Top-2 % made ‖ĝ‖² .08 times as large for iid and 1.6 times for label-sorted clients, with error
    feedback 2.5 and 43 times (medians, ``reproduce adadagrad``): b then grows too soon or never.
    """

    eta: float  # η
    maximum: int
    initial: int = 2

    measures = "trace"

    def statistic(self, found: Statistics) -> float:
        return found.trace

    def wanted(self, size: int, evidence: Evidence) -> float:
        return size * ratio(
            evidence.share * mean_variance(evidence.replies),
            self.eta * (self.eta * evidence.gradient_square),
        )


def mean_variance(replies: Sequence[Reply]) -> float:
    """V = Σ w_m² tr Σ_m/b_m, the variance of Σ w_m ḡ_m; NaN if a statistic is missing."""
    return sum(
        math.nan if r.statistic is None else r.weight**2 * r.statistic / r.samples for r in replies
    )


@setting("cross_client_test")
class CrossClientTest(BatchTest):
    """b = σ̂²/(Mη²‖ĝ‖²) with σ̂² = b/(M−1)·Σ_m‖g_m − ḡ‖² (arXiv 2412.21124).

    Costs the clients nothing and works for every estimator that draws batches; needs two applied
    reports in a round, otherwise the size stays. For unequal weights or sizes, and one σ² for all,
    σ̂² = Σ w_m‖g_m − ḡ‖²/Σ(w_m(1 − w_m)/b_m) and the variance of the mean is σ̂²·Σ w_m²/b_m.

    For iid shards ALONE: it also counts how the clients' gradients differ, ‖∇f_m − ∇f‖², and how
    compression changed each, neither of which falls with b. On other data b grows to the maximum.
    """

    eta: float  # η
    maximum: int
    initial: int = 2

    compares_clients = True

    def wanted(self, size: int, evidence: Evidence) -> float:
        # Clients alike in σ²: E spread = σ²·Σ w_m(1 − w_m)/b_m, and V = σ²·Σ w_m²/b_m.
        apart = sum(r.weight * (1 - r.weight) / r.samples for r in evidence.replies)
        together = sum(r.weight**2 / r.samples for r in evidence.replies)
        noise = evidence.share * together * ratio(evidence.spread, apart)
        return size * ratio(noise, self.eta * (self.eta * evidence.gradient_square))


norm_test, cross_client_test = NormTest, CrossClientTest
