"""fedbias: federated learning for gradients that are biased.

The core: compressors, feedback, estimators, optimizers, rounds, problems and the papers' bounds.
It needs numpy alone. :func:`run` is the whole federation as one readable loop; the edges
``strategies`` and ``clients`` run the same pieces through Flower.
"""

from fedbias import theory
from fedbias.batching import (
    BatchSize,
    augmented_test,
    constant_batch,
    coordinate_test,
    cross_client_test,
    inner_product_test,
    linear_batch,
    local_norm_test,
    norm_test,
    stagewise_batch,
)
from fedbias.compressors import (
    Compressor,
    Guarantee,
    dithered,
    entropy_coded,
    half,
    identity,
    lattice,
    random_k,
    rotated,
    sign,
    top_k,
    trellis_coded,
    uniform,
)
from fedbias.decay import Decay, cosine_decay, no_decay
from fedbias.estimators import (
    Estimate,
    Estimator,
    by_capability,
    clipped,
    exact,
    forward_gradient,
    local_steps,
    meta,
    minibatch,
    normalised,
    two_point,
)
from fedbias.feedback import Feedback, differential, ef21, error_feedback, no_feedback
from fedbias.gossip import Matching, along, random_matching, random_pair, run_gossip
from fedbias.headers import ProtocolError
from fedbias.history import History
from fedbias.loop import run
from fedbias.notation import parse
from fedbias.objectives import ForwardOnly, MissingCapability, Objective, Statistics
from fedbias.optimizers import (
    Optimizer,
    adagrad,
    adagrad_norm,
    adam,
    gradient_descent,
    heavy_ball,
    nesterov,
    polyak,
)
from fedbias.packets import Packet, PacketError, decode
from fedbias.preset import preset_radius
from fedbias.problems import LeastSquares, Logistic, ShallowLinear
from fedbias.randomness import direction, lost, sample_clients
from fedbias.rounds import Plan, Report
from fedbias.sharpness import (
    BySharpness,
    Eigenpair,
    Lanczos,
    NotMeasured,
    Reading,
    by_sharpness,
    lanczos,
    top_eigenpair,
    top_eigenpairs,
)
from fedbias.stopping import until

__version__ = "0.1.0"
__all__ = [
    "BatchSize",
    "BySharpness",
    "Compressor",
    "Decay",
    "Eigenpair",
    "Estimate",
    "Estimator",
    "Feedback",
    "ForwardOnly",
    "Guarantee",
    "History",
    "Lanczos",
    "LeastSquares",
    "Logistic",
    "Matching",
    "MissingCapability",
    "NotMeasured",
    "Objective",
    "Optimizer",
    "Packet",
    "PacketError",
    "Plan",
    "ProtocolError",
    "Reading",
    "Report",
    "ShallowLinear",
    "Statistics",
    "adagrad",
    "adagrad_norm",
    "adam",
    "along",
    "augmented_test",
    "by_capability",
    "by_sharpness",
    "clipped",
    "constant_batch",
    "coordinate_test",
    "cosine_decay",
    "cross_client_test",
    "decode",
    "differential",
    "direction",
    "dithered",
    "ef21",
    "entropy_coded",
    "error_feedback",
    "exact",
    "forward_gradient",
    "gradient_descent",
    "half",
    "heavy_ball",
    "identity",
    "inner_product_test",
    "lanczos",
    "lattice",
    "linear_batch",
    "local_norm_test",
    "local_steps",
    "lost",
    "meta",
    "minibatch",
    "nesterov",
    "no_decay",
    "no_feedback",
    "norm_test",
    "normalised",
    "parse",
    "polyak",
    "preset_radius",
    "random_k",
    "random_matching",
    "random_pair",
    "rotated",
    "run",
    "run_gossip",
    "sample_clients",
    "sign",
    "stagewise_batch",
    "theory",
    "top_eigenpair",
    "top_eigenpairs",
    "top_k",
    "trellis_coded",
    "two_point",
    "uniform",
    "until",
]
