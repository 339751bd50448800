"""The sharpness, λ_max of the Hessian: measured over clients, and what the step makes of it."""

from .eigenpairs import Eigenpair, NotMeasured, top_eigenpair, top_eigenpairs
from .query import HvpQuery, checksum, own_product
from .reading import Reading, take_reading
from .settings import BySharpness, Lanczos, as_lanczos, by_sharpness, lanczos

__all__ = [
    "BySharpness",
    "Eigenpair",
    "HvpQuery",
    "Lanczos",
    "NotMeasured",
    "Reading",
    "as_lanczos",
    "by_sharpness",
    "checksum",
    "lanczos",
    "own_product",
    "take_reading",
    "top_eigenpair",
    "top_eigenpairs",
]
