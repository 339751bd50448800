"""Data sets, the files they come from, and how they are dealt to clients."""

from .datasets import Dataset, digits, image_data
from .idx import DataError, read_idx
from .partitions import Partition, contiguous, dirichlet, iid, natural

__all__ = [
    "DataError",
    "Dataset",
    "Partition",
    "contiguous",
    "digits",
    "dirichlet",
    "iid",
    "image_data",
    "natural",
    "read_idx",
]
