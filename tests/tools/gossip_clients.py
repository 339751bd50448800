"""Clients whose decentralized runs can be followed by hand, and all that may be drawn for them."""

import numpy as np

import fedbias as fb
from fedbias.problems import Squares

HALF = fb.local_steps(1, 0.5, 0.5, fb.exact())  # a step of 1/2 with momentum 1/2


def centred(*centres):
    """Clients with f(x) = (x − c)²/2, whose gradients are exact for dyadic numbers."""
    return [Squares(np.ones((1, 1)), np.array([float(c)])) for c in centres]


def at(*numbers):
    """Models of one entry."""
    return [np.array([float(number)]) for number in numbers]


def matchings(clients):
    """All the perfect matchings; of an odd number, all that leave one alone."""
    if len(clients) % 2:
        return [m for one in clients for m in matchings([c for c in clients if c != one])]
    if not clients:
        return [()]
    first, *rest = clients
    return [
        ((first, other), *more)
        for other in rest
        for more in matchings([c for c in rest if c != other])
    ]
