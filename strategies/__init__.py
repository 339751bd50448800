"""The server edge: Flower strategies that turn biased estimates into training."""

from .adadagrad import adadagrad, adadagrad_norm
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .differential_quantization import differential_quantization
from .fedbias import FedBias
from .gossip import Gossip
from .hybrid_order import hybrid_order
from .introductions import meet
from .parallel_momentum import parallel_momentum
from .records import RoundRecord
from .sharpness_step import sharpness_step

__all__ = [
    "Checkpoint",
    "FedBias",
    "Gossip",
    "RoundRecord",
    "adadagrad",
    "adadagrad_norm",
    "differential_quantization",
    "load_checkpoint",
    "hybrid_order",
    "meet",
    "parallel_momentum",
    "save_checkpoint",
    "sharpness_step",
]
