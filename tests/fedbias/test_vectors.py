"""Named arrays ↔ one flat vector."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbias.vectors import Layout, flatten, unflatten


def named(dtype=np.float64):
    return {
        "weight": np.arange(6, dtype=dtype).reshape(2, 3),
        "scale": np.array(7, dtype),  # a scalar has one entry
        "bias": np.array([8, 9], dtype),
        "none": np.zeros((0, 4), dtype),  # and an empty array none
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_row_major_one_behind_the_other(dtype):
    """By hand. Kills: column-major order, sorted names, a converted dtype."""
    vector = flatten(named(dtype).values())
    np.testing.assert_array_equal(vector, [0, 1, 2, 3, 4, 5, 7, 8, 9])
    assert vector.dtype == dtype
    layout = Layout.of(named(dtype))
    assert layout.shapes == (("weight", (2, 3)), ("scale", ()), ("bias", (2,)), ("none", (0, 4)))
    assert layout.dim == 9


def test_transposed_arrays_are_read_row_major():
    """Kills: ravel(order='K'), which would follow the memory."""
    matrix = np.array([[1.0, 2.0], [3.0, 4.0]]).T
    np.testing.assert_array_equal(flatten([matrix]), [1, 3, 2, 4])


@given(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=5), st.booleans())
def test_round_trip(shapes, single):
    dtype = np.float32 if single else np.float64
    rng = np.random.default_rng(0)
    arrays = {f"a{i}": rng.standard_normal(shape).astype(dtype) for i, shape in enumerate(shapes)}
    back = unflatten(flatten(arrays.values()), Layout.of(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].shape == array.shape and back[name].dtype == dtype
        np.testing.assert_array_equal(back[name], array)


def test_flatten_copies_and_unflatten_views():
    """Kills: a flat vector that shares memory with a model that goes on training."""
    alone = np.ones(3)
    flatten([alone])[0] = 5
    assert alone[0] == 1
    vector = np.zeros(9)
    arrays = unflatten(vector, Layout.of(named()))
    arrays["bias"][1] = 3
    assert vector[8] == 3


def test_refusals():
    """Kills: silent promotion of float32 beside float64; a vector cut or padded to fit."""
    with pytest.raises(ValueError, match="one dtype, got float32, float64"):
        flatten([np.zeros(1, np.float32), np.zeros(1)])
    with pytest.raises(ValueError, match="no array at all"):
        flatten([])
    layout = Layout.of(named())
    for wrong in (np.zeros(8), np.zeros(10), np.zeros((9, 1))):
        with pytest.raises(ValueError, match=r"needs shape \(9,\), not"):
            unflatten(wrong, layout)
