"""What zeroth-order clients are worth, and what pairs do to a spread: by hand and by counting."""

import math
from itertools import combinations

import numpy as np
import pytest

from fedbias import theory

# The paper's experiment (a): logistic regression, d = 7850, 128 directions, 24 FO and 256 ZO
K = theory.variance_ratio(7850, 128)


def test_by_hand():
    """Kills: any other constant or power."""
    assert theory.difference_bias(0.5, 3.0, 1) == 0.25 * 3 * 8
    assert theory.difference_bias(1e-3, 2.0, 97) == pytest.approx(1.0, rel=1e-15)
    assert theory.difference_bias(0.0, 3.0, 1) == theory.difference_bias(0.5, 0.0, 1) == 0
    assert theory.relative_error(50, 1) == 51 and theory.relative_error(50, 8) == 6.375
    assert theory.relative_error(50, 64) == pytest.approx(0.797, abs=5e-4)
    assert theory.variance_ratio(50, 8) == 7.375 and pytest.approx(62.336, abs=5e-4) == K


@pytest.mark.parametrize(
    ("first_order", "zeroth_order", "uniform", "inverse"),
    [(24, 0, 1 / 24, 1 / 24), (0, 256, 0.2435, 0.2435), (24, 256, 0.2039, 0.03558)],
)
def test_the_papers_populations(first_order, zeroth_order, uniform, inverse):
    """24 FO, 256 ZO and both: the mixture is worse than few FO with equal weights, and best with
    inverse variances. Kills: n_0 and n_1 swapped, a k that divides.
    """
    found = [
        theory.averaged_variance(first_order, zeroth_order, K, weights)
        for weights in ("uniform", "inverse_variance")
    ]
    assert found == pytest.approx([uniform, inverse], rel=3e-4)


@pytest.mark.parametrize(("n1", "n0", "k"), [(1, 1, 2.0), (3, 10, 6.25), (24, 256, K), (7, 2, 0.3)])
def test_inverse_variances_are_the_best_weights(n1, n0, k):
    """Below both populations alone, and below the variance with any other weight w of a ZO client:
    (n_1 + k·n_0·w²)/(n_1 + n_0·w)², which is the uniform one at w = 1.

    Kills: a minimum that is none.
    """
    best = theory.averaged_variance(n1, n0, k, "inverse_variance")
    assert best < min(
        theory.averaged_variance(n1, 0, k, "uniform"), theory.averaged_variance(0, n0, k, "uniform")
    )

    def weighted(w):
        return (n1 + k * n0 * w**2) / (n1 + n0 * w) ** 2

    assert best == pytest.approx(weighted(1 / k), rel=1e-14)
    assert all(best < weighted(w) for w in (0, 0.5 / k, 0.9 / k, 1.1 / k, 3 / k))
    assert weighted(1) == pytest.approx(theory.averaged_variance(n1, n0, k, "uniform"), rel=1e-14)
    assert theory.averaged_variance(n1, n0, 1.0, "inverse_variance") == 1 / (n1 + n0)


def spread(models):
    return np.mean(np.sum((models - models.mean(axis=0)) ** 2, axis=1))


def averaged(models, pairs):
    met = models.copy()
    for i, j in pairs:
        met[[i, j]] = (models[i] + models[j]) / 2
    return met


def matchings(clients):
    """All the near-perfect matchings of a list of clients."""
    if len(clients) < 2:
        return [[]]
    if len(clients) % 2:
        left = [clients[:i] + clients[i + 1 :] for i in range(len(clients))]
        return [pairs for rest in left for pairs in matchings(rest)]
    first, *others = clients
    return [
        [(first, other), *pairs]
        for place, other in enumerate(others)
        for pairs in matchings(others[:place] + others[place + 1 :])
    ]


@pytest.mark.parametrize("clients", [2, 3, 4, 5, 6, 7])
def test_contractions_by_counting(clients):
    """The mean over all the pairs, and over all the matchings, exactly; the mean model stays.

    Kills: n for n − 1, an odd client that is counted as met.
    """
    models = np.random.default_rng(clients).standard_normal((clients, 4))
    pairs = [[pair] for pair in combinations(range(clients), 2)]
    every = matchings(list(range(clients)))
    assert len(every) == math.prod(range(1, clients + clients % 2, 2))
    for chosen, contraction in (
        (pairs, theory.pair_contraction(clients)),
        (every, theory.matching_contraction(clients)),
    ):
        after = [averaged(models, each) for each in chosen]
        assert np.mean([spread(each) for each in after]) == pytest.approx(
            contraction * spread(models), rel=1e-12, abs=1e-15
        )
        means = np.array([each.mean(axis=0) for each in after])
        np.testing.assert_allclose(means - models.mean(axis=0), 0, atol=1e-15)


def test_contractions_by_hand():
    """(n−2)/(2(n−1)) for an even n, 1/2 for an odd one, 1 − 1/(n−1) for one pair."""
    found = [theory.matching_contraction(n) for n in (2, 3, 4, 5, 100)]
    assert found == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2, 98 / 198], rel=1e-14)
    assert [theory.pair_contraction(n) for n in (2, 3, 101)] == [0, 1 / 2, 0.99]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: theory.difference_bias(-1.0, 1.0, 1), "difference_bias: radius must be"),
        (lambda: theory.difference_bias(1.0, math.nan, 1), "difference_bias: lipschitz must be"),
        (lambda: theory.difference_bias(1.0, 1.0, 0), "difference_bias: dim must be"),
        (lambda: theory.relative_error(0, 1), "relative_error: dim must be"),
        (lambda: theory.relative_error(1, 0), "relative_error: directions must be"),
        (lambda: theory.variance_ratio(1, 2.5), "directions must be a whole number >= 1, not 2.5"),
        (lambda: theory.averaged_variance(0, 0, 2.0, "uniform"), "zeroth_order must be"),
        (lambda: theory.averaged_variance(-1, 3, 2.0, "uniform"), "first_order must be"),
        (lambda: theory.averaged_variance(1, -1, 2.0, "uniform"), "zeroth_order must be"),
        (lambda: theory.averaged_variance(1, 1, 0.0, "uniform"), "ratio must be a number > 0"),
        (lambda: theory.averaged_variance(1, 1, 2.0, "examples"), "weights must be one of"),
        (lambda: theory.pair_contraction(1), "clients must be a whole number >= 2, not 1"),
        (lambda: theory.matching_contraction(1), "clients must be a whole number >= 2, not 1"),
    ],
)
def test_numbers_that_cannot_be(call, sentence):
    """Kills: a population of nobody, a spread of one."""
    with pytest.raises(ValueError) as caught:
        call()
    assert sentence in str(caught.value)
