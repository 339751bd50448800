"""Clients that differ in what they can compute."""

import fedbias as fb


def able(objectives, kinds):
    """One letter per client: g has gradients, d slopes besides its loss, l its loss alone."""
    made = {
        "g": lambda f: f,
        "d": lambda f: fb.ForwardOnly(f, directional=True),
        "l": fb.ForwardOnly,
    }
    return [made[kind](f) for kind, f in zip(kinds, objectives, strict=True)]


class Cliff(fb.ForwardOnly):
    """No loss where the first coordinate is above the edge."""

    def __init__(self, objective, edge):
        super().__init__(objective)
        self.edge = edge

    def loss(self, point, batch=None):
        return float("nan") if point[0] > self.edge else super().loss(point, batch)
