"""Where clients run: in this process, or on Ray."""

from .inline import InlineGrid
from .lossy import LossyGrid
from .ray import run_on_ray

__all__ = ["InlineGrid", "LossyGrid", "run_on_ray"]
