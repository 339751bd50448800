"""The top of a spectrum from products alone: beside dense eigenvalues, where it may go wrong."""

import numpy as np
import pytest

import fedbias as fb
from fedbias.sharpness import top_eigenpairs


def symmetric(spectrum, seed=0, dtype=np.float64):
    """A dense symmetric matrix with these eigenvalues and random axes."""
    dim = len(spectrum)
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]
    return ((axes * spectrum) @ axes.T).astype(dtype)


def strakos(dim=48, low=1e-3, high=100.0, ratio=0.7):
    """The spectrum that is known for ghosts: λ_i = λ_1 + (i−1)/(n−1)·(λ_n − λ_1)·ρ^(n−i)."""
    i = np.arange(dim)
    return low + i / (dim - 1) * (high - low) * ratio ** (dim - 1 - i)


RNG = np.random.default_rng(7)
SPECTRA = {
    "random": RNG.standard_normal(60),
    "one": np.array([-3.5]),
    "two": np.array([1.0, -1.0]),
    "clustered": np.concatenate([2 + 1e-7 * RNG.random(15), 1 + 1e-9 * RNG.random(25), [0, -9]]),
    "an isolated top": np.concatenate([RNG.random(40), [50.0]]),
    "a top as near as 1e-9": np.concatenate([RNG.random(30), [2.0, 2.0 + 1e-9]]),
    "repeated": np.repeat([3.0, 1.0, 0.0, -2.0], [5, 12, 9, 7]),
    "identity": np.ones(20),
    "negative definite": -1 - RNG.random(25),
    "low rank": np.concatenate([np.zeros(40), [0.5, 4.0]]),
    "ill-conditioned": np.geomspace(1e-8, 1e4, 50),
    "tiny": 1e-200 * RNG.standard_normal(20),
    "huge": 1e200 * RNG.standard_normal(20),
    "strakos": strakos(),
}
FIFTY = RNG.standard_normal(50)
each_spectrum = pytest.mark.parametrize("name", SPECTRA)


class Counted:
    """v → Hv, and how often it was asked for."""

    def __init__(self, matrix):
        self.matrix, self.vectors = matrix, []

    def __call__(self, vector):
        self.vectors.append(vector.copy())
        return self.matrix @ vector


# Beside dense eigenvalues -------------------------------------------------------------------------


@each_spectrum
def test_all_the_steps_give_the_dense_value(name):
    """To 1e-10 of ‖H‖, with a true pair. Kills: the largest modulus, the smallest, a vector that
    belongs to another value, a search that ends in an invariant space without the top.
    """
    matrix = symmetric(SPECTRA[name])
    dim, values = len(matrix), np.linalg.eigvalsh(matrix)
    scale = np.abs(values).max()
    found = fb.top_eigenpair(lambda v: matrix @ v, dim, dim, seed=3)
    assert abs(found.value - values[-1]) <= 1e-10 * scale
    assert abs(np.linalg.norm(found.vector) - 1) <= 1e-14 and found.vector.shape == (dim,)
    left = (matrix / scale) @ found.vector - found.value / scale * found.vector
    assert np.linalg.norm(left) <= 1e-10 and found.residual / scale <= 1e-10


@each_spectrum
def test_several_pairs_are_the_top_ones_with_their_multiplicities(name):
    """Descending, orthonormal. Kills: ghosts, which come without re-orthogonalization: copies of
    the top value; an eigenvalue that is there once of several; the bottom ones.
    """
    matrix = symmetric(SPECTRA[name], seed=1)
    dim = len(matrix)
    count, values = min(6, dim), np.linalg.eigvalsh(matrix)[::-1]
    found = top_eigenpairs(lambda v: matrix @ v, dim, dim, 5, count)
    scale, vectors = np.abs(values).max(), np.stack([pair.vector for pair in found])
    assert len(found) == count
    np.testing.assert_allclose([pair.value for pair in found], values[:count], 0, 1e-10 * scale)
    assert all(one.value >= other.value for one, other in zip(found, found[1:], strict=False))
    assert np.abs(vectors @ vectors.T - np.eye(count)).max() <= 1e-12
    assert all(pair.residual <= 1e-10 * scale for pair in found)


@each_spectrum
def test_the_basis_stays_orthogonal(name):
    """All dim pairs of vectors. Kills: one pass of re-orthogonalization, which leaves more."""
    matrix = symmetric(SPECTRA[name], seed=2)
    dim = len(matrix)
    asked = Counted(matrix)
    fb.top_eigenpair(asked, dim, dim, seed=0)
    basis = np.stack(asked.vectors[:dim])
    assert np.abs(basis @ basis.T - np.eye(dim)).max() <= 2e-15 * np.sqrt(dim)


@pytest.mark.parametrize("name", ["random", "clustered", "an isolated top", "strakos", "repeated"])
def test_the_residual_is_true_after_every_number_of_steps(name):
    """H has an eigenvalue within it, θ ≤ λ_max, and it is ‖Hv − θv‖. Kills: a residual that is
    Lanczos' estimate, which is another after rounding; one that leaves the bound.
    """
    matrix = symmetric(SPECTRA[name], seed=4)
    dim, values = len(matrix), np.linalg.eigvalsh(matrix)
    ulps, before = 50 * np.finfo(float).eps * np.abs(values).max(), -np.inf
    for steps in range(1, dim + 1):
        found = fb.top_eigenpair(lambda v: matrix @ v, dim, steps, seed=11)
        assert np.abs(values - found.value).min() <= found.residual + ulps
        assert before - ulps <= found.value <= values[-1] + ulps
        left = np.linalg.norm(matrix @ found.vector - found.value * found.vector)
        assert found.residual == pytest.approx(left, abs=ulps)
        before = found.value
    assert found.residual <= 20 * ulps


def test_two_steps_by_hand():
    """H = diag(2, −1) from a seeded start: two steps are all of it; one is the Rayleigh quotient of
    the start. Kills: a start that is not the seed's, a value that is not ⟨v, Hv⟩.
    """
    matrix, start = np.diag([2.0, -1.0]), np.random.default_rng(9).standard_normal(2)
    unit = start / np.linalg.norm(start)
    one = fb.top_eigenpair(lambda v: matrix @ v, 2, 1, seed=9)
    assert one.value == pytest.approx(unit @ matrix @ unit, rel=1e-14)
    assert one.residual == pytest.approx(3 * abs(unit[0] * unit[1]), rel=1e-13)
    assert np.abs(one.vector) == pytest.approx(np.abs(unit), rel=1e-14)
    two = fb.top_eigenpair(lambda v: matrix @ v, 2, 2, seed=9)
    assert two.value == pytest.approx(2, rel=1e-14)
    assert np.abs(two.vector) == pytest.approx([1, 0], abs=1e-14)


@pytest.mark.parametrize("name", ["random", "clustered", "an isolated top", "strakos"])
def test_single_precision(name):
    """To 2e-6 of ‖H‖, float32 vectors in and out. Kills: vectors that become float64, sums in
    float32 where the residual's digits cancel.
    """
    matrix = symmetric(SPECTRA[name], dtype=np.float32)
    dim, values = len(matrix), np.linalg.eigvalsh(matrix.astype(float))
    asked, scale = Counted(matrix), np.abs(values).max()
    found = fb.top_eigenpair(asked, dim, dim, seed=3, dtype=np.float32)
    assert {vector.dtype for vector in asked.vectors} == {np.dtype(np.float32)}
    assert found.vector.dtype == np.float32
    assert abs(found.value - values[-1]) <= 2e-6 * scale and found.residual <= 2e-6 * scale
    assert type(found.value) is float and type(found.residual) is float


# How many products --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "steps", "count", "products"),
    [(30, 5, 1, 6), (30, 5, 3, 8), (30, 30, 1, 31), (30, 99, 2, 32), (1, 1, 1, 2), (1, 50, 1, 2)],
)
def test_products_are_counted(dim, steps, count, products):
    """Kills: a product more or less than is said, steps beyond the dimension."""
    asked = Counted(symmetric(np.linspace(-1, 3, dim)))
    found = top_eigenpairs(asked, dim, steps, 0, count)
    assert len(asked.vectors) == products
    assert [pair.products for pair in found] == [products] * count
    assert all(vector.shape == (dim,) for vector in asked.vectors)
    assert np.linalg.norm(asked.vectors, axis=1) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("count", [1, 3])
def test_a_tolerance_stops_early_and_keeps_its_promise(tolerance, count):
    """400 dimensions, a top apart. Kills: a first entry in place of the last in the estimate, a
    tolerance of the largest pair alone, one that never stops, one that is absolute.
    """
    spectrum = 1e3 * np.concatenate([np.linspace(0, 1, 397), [1.5, 2, 3]])
    matrix, residuals = symmetric(spectrum), []
    found = top_eigenpairs(lambda v: matrix @ v, 400, 400, 2, count, tolerance=tolerance)
    made = found[0].products - count
    assert count < made < 60
    for pair in found:
        residuals.append(pair.residual / abs(pair.value))
    assert max(residuals) <= tolerance * (1 + 1e-5)
    short = top_eigenpairs(lambda v: matrix @ v, 400, made - 1, 2, count)
    assert max(pair.residual / abs(pair.value) for pair in short) > tolerance  # not a step too many


@pytest.mark.parametrize("tolerance", [0.5, 0.01])
@pytest.mark.parametrize("steps", [3, 30])
def test_a_tolerance_is_not_asked_before_five_steps(tolerance, steps):
    """1 everywhere and 3 once, in 100 000 dimensions: a random start is nearly an eigenvector of 1,
    with a residual of .006. Kills: 1 for the top one.
    """
    scales = np.ones(100_000)
    scales[5] = 3
    asked = []

    def hvp(vector):
        asked.append(None)
        return scales * vector

    found = fb.top_eigenpair(hvp, scales.size, steps, seed=0, tolerance=tolerance)
    assert found.products == len(asked) == min(steps, 5) + 1
    assert found.value == pytest.approx(3, rel=1e-12) and found.residual <= 1e-9
    start = fb.top_eigenpair(hvp, scales.size, 1, seed=0)
    assert start.value < 1.001 and start.residual < 0.01 * start.value


def test_without_a_tolerance_every_step_is_taken():
    """Kills: 0 that stops at an invariant space: the other copies of the top are still missing."""
    asked = Counted(np.diag([2.0, 2.0, 2.0, 1.0]))
    found = top_eigenpairs(asked, 4, 4, 0, 3)
    assert [pair.value for pair in found] == pytest.approx([2, 2, 2], abs=1e-14)
    assert len(asked.vectors) == 7


# At the edges -------------------------------------------------------------------------------------


def test_a_zero_hessian():
    """Kills: a division by a rest of length 0; a tolerance relative to 0 that is never met."""
    for tolerance, products in ((0.0, 10), (0.01, 6)):
        asked = Counted(np.zeros((30, 30)))
        found = fb.top_eigenpair(asked, 30, 9, seed=0, tolerance=tolerance)
        assert (found.value, found.residual) == (0.0, 0.0)
        assert found.products == len(asked.vectors) == products
        assert np.linalg.norm(found.vector) == pytest.approx(1)


def test_a_tolerance_ends_in_an_invariant_space():
    """Five different eigenvalues are five steps; the top one, 0, is no scale for a tolerance.

    Kills: steps along rounding until they are all spent.
    """
    scales = np.repeat([0.0, -1.0, -2.0, -3.0, -4.0], 6)
    found = fb.top_eigenpair(lambda v: scales * v, 30, 30, seed=0, tolerance=0.01)
    assert found.products == 6 and abs(found.value) < 1e-14 and found.residual < 1e-13


def test_the_top_is_the_most_positive_one():
    """Kills: the largest modulus: −100 is no sharpness."""
    matrix = np.diag([-100.0, -3.0, -0.25])
    found = fb.top_eigenpair(lambda v: matrix @ v, 3, 3, seed=1)
    assert found.value == pytest.approx(-0.25, abs=1e-12)
    assert np.abs(found.vector) == pytest.approx([0, 0, 1], abs=1e-12)


def test_a_long_vector_at_few_steps():
    """In 200 000 dimensions, which no matrix has room for; the top by hand. Kills: dim × dim."""
    scales = np.linspace(0, 1, 200_000)
    scales[77] = 5
    found = fb.top_eigenpair(lambda v: scales * v, 200_000, 60, seed=0, tolerance=1e-8)
    assert found.value == pytest.approx(5, rel=1e-12) and found.residual <= 5e-8
    assert abs(found.vector[77]) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("tolerance", [0, 1e-8])
def test_a_top_that_is_hard_to_see_in_single_precision(tolerance):
    """1.1 once, 1 in 399 999 directions: of the start's product 1.6e-4 is no multiple of it, which
    is far above rounding. Kills: a threshold that grows with the dimension.
    """
    scales = np.ones(400_000, np.float32)
    scales[9] = 1.1
    settings = {"seed": 1, "dtype": np.float32, "tolerance": tolerance}
    found = fb.top_eigenpair(lambda v: scales * v, scales.size, 6, **settings)
    assert found.value == pytest.approx(1.1, rel=1e-6) and found.residual <= 1e-5
    assert abs(found.vector[9]) == pytest.approx(1, abs=1e-5)


def test_one_seed_the_same_bits():
    """Another one begins elsewhere and ends at the same value. Kills: a start without the seed."""
    matrix = symmetric(SPECTRA["random"])

    def bits(seed, steps):
        found = fb.top_eigenpair(lambda v: matrix @ v, 60, steps, seed)
        return found.vector.tobytes(), found.value

    assert bits(3, 8) == bits(3, 8) and bits([3, 1], 8) == bits([3, 1], 8)
    assert len({bits(seed, 8) for seed in (3, 4, (3, 1))}) == 3
    assert bits(3, 60)[1] == pytest.approx(bits(4, 60)[1], rel=1e-13)


@pytest.mark.parametrize("at", [1, 3, 6])
@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
def test_a_product_that_is_not_finite(at, entry):
    """The first, the third, the one for the residual. Kills: an eigenvalue of NaN."""
    asked = Counted(symmetric(np.linspace(0, 1, 9)))

    def hvp(vector):
        product = asked(vector)
        if len(asked.vectors) == at:
            product[2] = entry
        return product

    with pytest.raises(
        fb.NotMeasured, match="a Hessian-vector product is not finite: the run dive"
    ):
        fb.top_eigenpair(hvp, 9, 5, seed=0)
    assert len(asked.vectors) == at


@pytest.mark.parametrize("shape", [(3,), (5,), (1,), (), (4, 1)])
def test_a_product_of_another_shape(shape):
    """Kills: numpy's broadcasting, which would take some of them."""
    with pytest.raises(fb.NotMeasured, match=r"a product has shape \(.*\), not \(4,\)"):
        fb.top_eigenpair(lambda v: np.ones(shape), 4, 3, seed=0)


RAW = np.random.default_rng(4).standard_normal((50, 50))
NOT_ONE = "the products are not those of one symmetric matrix: of a loss that is drawn anew"


@pytest.mark.parametrize("tolerance", [0.0, 0.01])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_no_symmetric_matrix(dtype, tolerance):
    """A random matrix, a rotation's. Kills: an eigenvalue of its symmetric part without a word."""
    for matrix in (RAW.astype(dtype), (RAW - RAW.T).astype(dtype)):
        asked = Counted(matrix)
        with pytest.raises(fb.NotMeasured, match=NOT_ONE):
            fb.top_eigenpair(asked, 50, 20, seed=0, dtype=dtype, tolerance=tolerance)
        assert len(asked.vectors) == 2  # at once: a first product says nothing


@pytest.mark.parametrize(
    ("size", "refused"), [(1e-2, True), (1e-4, True), (1e-7, False), (1e-10, False)]
)
def test_how_much_asymmetry_is_too_much(size, refused):
    """Of a part that is not symmetric; ∛ε = 6.1e-6. Kills: a bound at rounding, one at a hundredth.
    Two-sided.
    """
    skew = RAW - RAW.T
    matrix = symmetric(FIFTY) + size * skew / np.linalg.norm(skew, 2)
    if refused:
        with pytest.raises(fb.NotMeasured, match=NOT_ONE):
            fb.top_eigenpair(lambda v: matrix @ v, 50, 20, seed=0)
    else:
        found = fb.top_eigenpair(lambda v: matrix @ v, 50, 50, seed=0)
        assert found.value == pytest.approx(FIFTY.max(), rel=10 * size)


@pytest.mark.parametrize("change", ["scale", "matrix"])
def test_an_operator_that_changes(change):
    """Between products, as that of a loss which draws anew. Kills: a mixture of two Hessians."""
    asked = Counted(symmetric(FIFTY))

    def hvp(vector):
        product = asked(vector)
        if change == "scale":
            return product * (1 + 0.01 * len(asked.vectors))
        asked.matrix = symmetric(FIFTY, seed=len(asked.vectors))
        return product

    with pytest.raises(fb.NotMeasured, match=NOT_ONE):
        fb.top_eigenpair(hvp, 50, 20, seed=0)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_products_beyond_the_range(at, steps):
    """±1.7e308 in 1000 entries: each is a number, their length is none. At the start, on the way,
    for the residual. Kills: numpy's warnings, a value of ∞ or NaN.
    """
    signs, count = np.where(np.random.default_rng(3).random(1000) < 0.5, -1.7e308, 1.7e308), 0
    at = min(at, steps + 1)

    def hvp(vector):
        nonlocal count
        count += 1
        return signs if count == at else np.linspace(0, 1, 1000) * vector

    with pytest.raises(fb.NotMeasured, match="products are beyond the range of their numbers"):
        fb.top_eigenpair(hvp, 1000, steps, seed=0)
    assert count == at


def test_a_failure_is_a_value_error():
    """Kills: an error that training does not see as one of values."""
    assert issubclass(fb.NotMeasured, ValueError)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dim": 0}, "dim must be a whole number >= 1, not 0"),
        ({"dim": 2.0}, "dim must be a whole number >= 1, not 2.0"),
        ({"steps": 0}, "steps must be a whole number >= 1, not 0"),
        ({"count": 0}, "count must be a whole number >= 1 and <= 3, not 0"),
        ({"count": 4}, "count must be a whole number >= 1 and <= 3, not 4"),
        ({"dim": 2, "count": 3}, "count must be a whole number >= 1 and <= 2, not 3"),
        ({"tolerance": -0.1}, "tolerance must be a number >= 0, not -0.1"),
        ({"tolerance": np.nan}, "tolerance must be a number >= 0, not nan"),
    ],
)
def test_arguments_out_of_range(changes, sentence):
    """Kills: a check that is left out."""
    values = {"dim": 4, "steps": 3, "count": 1, "tolerance": 0.0} | changes
    tolerance = values.pop("tolerance")
    with pytest.raises(ValueError) as caught:
        top_eigenpairs(lambda v: v, **values, seed=0, tolerance=tolerance)
    assert str(caught.value) == f"top_eigenpairs: {sentence}"
