"""The server edge: Flower strategies that turn biased estimates into training."""

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .fedbias import FedBias
from .parallel_momentum import parallel_momentum
from .records import RoundRecord
from .roster import greet

__all__ = [
    "Checkpoint",
    "FedBias",
    "RoundRecord",
    "greet",
    "load_checkpoint",
    "parallel_momentum",
    "save_checkpoint",
]
