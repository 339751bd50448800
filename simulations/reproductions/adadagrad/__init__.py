"""AdAdaGrad (arXiv 2402.11215): adaptive batch sizes at equal samples."""

from .cells import REPRODUCTION

__all__ = ["REPRODUCTION"]
