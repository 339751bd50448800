"""Hybrid federations in lockstep: the library's own, the law of their directions, what is said."""

import io

import numpy as np
import pytest

import fedbias as fb
from simulations.output import Progress
from simulations.reproductions.hybrid.cases import FINAL, MOMENTUM, RADIUS, Experiment, examples
from simulations.reproductions.hybrid.dense import Dense, cross_entropy, gradients
from simulations.reproductions.hybrid.draws import Drawn, Law
from simulations.reproductions.hybrid.lockstep import FAMILIES, Lockstep

TINY = Experiment((5,), 2, 3, 4, (0.3, 0.2), 6)


@pytest.fixture
def progress():
    return Progress(stream=io.StringIO())


class Net:
    """A client's own part of the data, point by point."""

    def __init__(self, net, inputs, labels):
        self._net, self._inputs, self._labels = net, inputs, labels
        self.dim, self.size = net.dim, len(labels)

    def loss(self, point, batch=None):
        return float(cross_entropy(self._forward(point, batch)[-1].T, self._chosen(batch)[1]))

    def loss(self, point, batch=None):
        inputs, labels = self._chosen(batch)
        out, *later = self._net.layers(point)
        out = out @ inputs.T
        for weights in later:
            out = weights @ np.vstack([np.maximum(out, 0), np.ones((1, len(labels)))])
        out = out - out.max(axis=0)
        return float(np.mean(np.log(np.exp(out).sum(axis=0)) - out[labels, range(len(labels))]))

    def gradient(self, point, batch=None):
        """By central differences, which rounding hardly touches at this radius."""
        found, moved = np.empty_like(point), point.copy()
        for k in range(point.size):
            moved[k] = point[k] + 1e-6
            up = self.loss(moved, batch)
            moved[k] = point[k] - 1e-6
            found[k], moved[k] = (up - self.loss(moved, batch)) / 2e-6, point[k]
        return found

    def _chosen(self, batch):
        rows = slice(None) if batch is None else batch
        return self._inputs[rows], self._labels[rows]


@pytest.fixture(scope="module")
def both():
    """A tiny experiment in lockstep with drawn directions, and its clients for the library."""
    data = examples("digits", None, TINY.first, TINY.zeroth, 7)
    lockstep = Lockstep(TINY, data, 7, Drawn, block=2, dtype=np.float64)
    clients = [
        Net(lockstep.net, data.inputs[part].astype(np.float64), data.labels[part])
        for part in data.parts
    ]
    clients[TINY.first :] = map(fb.ForwardOnly, clients[TINY.first :])
    for _ in range(TINY.rounds):
        lockstep.step()
    return lockstep, clients


def estimator(multiple, momentum=True):
    first, zeroth = fb.minibatch(), fb.two_point(TINY.directions, RADIUS)
    if not momentum:
        return {"gradient": first, "loss": zeroth}
    steps = [(1 - MOMENTUM) * multiple * step for step in TINY.steps]
    return {
        "gradient": fb.local_steps(1, steps[0], MOMENTUM, first),
        "loss": fb.local_steps(1, steps[1], MOMENTUM, zeroth),
    }


def decay(nodes):
    return fb.cosine_decay(samples=2 * nodes * TINY.rounds, final=FINAL)


@pytest.mark.parametrize(("place", "multiple"), [(1, 0.3), (4, 10.0)])
def test_the_hybrid_is_the_library_s(both, place, multiple):
    lockstep, clients = both
    start = lockstep.net.start(7)
    history = fb.run_gossip(
        *(clients, [start] * TINY.nodes, TINY.rounds),
        estimator=estimator(multiple),
        matching=fb.random_matching(),
        decay=decay(TINY.nodes),
        batch_size=2,
        seed=7,
    )
    means, spreads = lockstep.mean_models()
    np.testing.assert_allclose(means[10 + place], history.points[-1], rtol=1e-4, atol=1e-6)
    assert spreads[10 + place] == pytest.approx(history.spreads[-1], rel=1e-4)
    assert np.linalg.norm(means[10 + place] - start) > 1e-2


def test_each_population_alone_is_the_library_s(both):
    """Kills: pairs across the populations, the other population's columns."""
    lockstep, clients = both
    start, means, first = lockstep.net.start(7), lockstep.mean_models()[0], TINY.first
    few = fb.run_gossip(
        *(clients[:first], [start] * first, TINY.rounds),
        estimator=estimator(1.0),
        matching=fb.random_matching(),
        decay=decay(first),
        batch_size=2,
        seed=7,
    )
    np.testing.assert_allclose(means[2], few.points[-1], rtol=1e-4, atol=1e-6)
    many = fb.run_gossip(
        *(clients, [start] * TINY.nodes, TINY.rounds),
        estimator=estimator(1.0),
        matching=lambda k: fb.random_matching().pairs(7, k, range(first, TINY.nodes)),
        participation=lambda k: range(first, TINY.nodes),
        decay=decay(TINY.zeroth),
        batch_size=2,
        seed=7,
    )
    mean = (TINY.nodes * many.points[-1] - first * start) / TINY.zeroth
    np.testing.assert_allclose(means[7], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("place", range(5))
def test_the_star_form_is_the_library_s(both, place):
    """Kills: a weighting that is not the library's, momentum of another form."""
    lockstep, clients = both
    weights = ("uniform", "uniform", "uniform", "examples", "inverse_variance")[place]
    asked = [range(TINY.first), range(TINY.first, TINY.nodes), range(TINY.nodes)][min(place, 2)]
    start, step = lockstep.net.start(7), TINY.steps[0 if place == 0 else 1]
    history = fb.run(
        *(clients, fb.polyak((1 - MOMENTUM) * step, MOMENTUM), start, TINY.rounds),
        estimator=estimator(1.0, momentum=False),
        participation=lambda k: asked,
        weights=weights,
        decay=decay(len(asked)),
        batch_size=2,
        seed=7,
    )
    rtol = 1e-2 if weights == "examples" else 1e-4  # digits divide by 3 with a remainder
    moved, expected = lockstep.star[5 * place + 2] - start, history.points[-1] - start
    assert np.linalg.norm(moved - expected) < rtol * np.linalg.norm(expected)
