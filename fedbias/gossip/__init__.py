"""Decentralized training: every client owns its model, and matched pairs average.

::

    client i   X'_i = X_i − η·g_i(X_i)                        its own step
    pair i, j  X_i, X_j ← (X'_i + X'_j)/2                     if both models arrived
    others     X_i ← X'_i

The server draws the pairs and relays what they send each other; it has no model of its own. A
client hears of its partner's model with its next plan, and settles then: exactly once, as in the
star form (:mod:`fedbias.ledger`).
"""

from .algorithm import GossipAlgorithm
from .client import model_of, respond
from .graphs import Along, along
from .loop import run_gossip
from .matchings import Matching, Pair, RandomMatching, RandomPair, random_matching, random_pair
from .plan import GossipPlan
from .query import ModelQuery, query_for
from .server import GossipState, apply, asked, enter, forget, pairs_of, plan_for, start_of
from .spread import mean_and_spread

__all__ = [
    "Along",
    "GossipAlgorithm",
    "GossipPlan",
    "GossipState",
    "Matching",
    "ModelQuery",
    "Pair",
    "RandomMatching",
    "RandomPair",
    "along",
    "apply",
    "asked",
    "enter",
    "forget",
    "mean_and_spread",
    "model_of",
    "pairs_of",
    "plan_for",
    "query_for",
    "random_matching",
    "random_pair",
    "respond",
    "run_gossip",
    "start_of",
]
