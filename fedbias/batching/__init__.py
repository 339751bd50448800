"""How many examples every client looks at next: schedules, and tests of the gradients' spread.

A :class:`BatchSize` is a setting. A schedule is a function of the samples so far; a test
(Byrd et al. 2012; Bollapragada et al. 2018; AdAdaGrad, arXiv 2402.11215) asks for more examples
where the noise of the mean gradient is large beside it. b is EACH client's size. Under a test it
never shrinks; unless it is constant, it never exceeds the maximum, nor a client's data.
"""

from __future__ import annotations

from numbers import Integral

from fedbias import checks
from fedbias.headers import LARGEST

from .base import BatchSize, BatchTest, Evidence, Reply
from .federated import cross_client_test, norm_test
from .local import augmented_test, coordinate_test, inner_product_test, local_norm_test
from .schedules import ConstantBatch, constant_batch, linear_batch, stagewise_batch
from .sizes import next_size, own_size, size_now

__all__ = [
    "BatchSize",
    "BatchTest",
    "Evidence",
    "Reply",
    "as_batch_size",
    "augmented_test",
    "constant_batch",
    "coordinate_test",
    "cross_client_test",
    "inner_product_test",
    "linear_batch",
    "local_norm_test",
    "next_size",
    "norm_test",
    "own_size",
    "size_now",
    "stagewise_batch",
]


def as_batch_size(value: BatchSize | int | None) -> BatchSize | None:
    """A whole number means :class:`ConstantBatch`, None all the data (ValueError for others)."""
    if value is None or isinstance(value, BatchSize):
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        checks.whole("algorithm", "batch_size", value, least=1, most=LARGEST)
        return ConstantBatch(int(value))
    raise ValueError(
        "algorithm: batch_size must be a whole number >= 1, None, or like "
        f"norm_test(eta=0.5, maximum=256), not {value!r}"
    )
