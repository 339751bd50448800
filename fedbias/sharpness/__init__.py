"""The sharpness, λ_max of the Hessian: measured over clients, and what the step makes of it."""

from .lanczos import Eigenpair, NotMeasured, top_eigenpair, top_eigenpairs
from .query import HvpQuery, check_of, product
from .reading import Reading, read
from .settings import BySharpness, Lanczos, by_sharpness, lanczos

__all__ = [
    "BySharpness",
    "Eigenpair",
    "HvpQuery",
    "Lanczos",
    "NotMeasured",
    "Reading",
    "by_sharpness",
    "check_of",
    "lanczos",
    "product",
    "read",
    "top_eigenpair",
    "top_eigenpairs",
]
