import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbias.bits import pack, packed_size, unpack

BY_HAND = [
    (0, [0, 0, 0], ""),
    (1, [1, 0, 1, 1, 0, 0, 0, 0, 1], "b0 80"),  # 10110000 1·······
    (2, [1, 2, 3, 0], "6c"),  # 01 10 11 00
    (3, [5, 3, 0], "ac 00"),  # 101 011 00|0 ·······
    (5, [1, 31, 16], "0f e0"),  # 00001 111|11 10000 ·
    (8, [1, 255], "01 ff"),
    (12, [0xABC, 0xDEF], "ab cd ef"),
    (16, [1, 0x1234], "00 01 12 34"),
    (32, [0xDEADBEEF], "de ad be ef"),
]


def some(count: int, width: int) -> np.ndarray:
    """Return integers that use every bit of the width."""
    values = np.random.default_rng([count, width]).integers(0, 2**width, count, np.uint32)
    values[:1] = 2**width - 1
    return values


@pytest.mark.parametrize(("width", "values", "packed"), BY_HAND)
def test_bytes_computed_by_hand(width, values, packed):
    data = bytes.fromhex(packed)
    assert pack(np.array(values, np.uint32), width) == data
    np.testing.assert_array_equal(unpack(data, len(values), width), values)


@pytest.mark.parametrize("width", range(33))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_round_trip(width, count):
    values = some(count, width) if width else np.zeros(count, np.uint32)
    data = pack(values, width)
    assert len(data) == packed_size(count, width) == -(-count * width // 8)
    back = unpack(data, count, width)
    assert back.dtype == np.uint32
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("width", [1, 3, 7, 20])
@pytest.mark.parametrize("count", [65_535, 65_536, 65_537, 2 * 65_536 + 5])
def test_more_integers_than_one_block_holds(width, count):
    values = some(count, width)
    data = pack(values, width)
    assert len(data) == packed_size(count, width)
    np.testing.assert_array_equal(unpack(data, count, width), values)


@given(
    st.integers(1, 32).flatmap(lambda w: st.tuples(st.just(w), st.lists(st.integers(0, 2**w - 1))))
)
def test_the_packed_bytes_are_one_binary_number(case):
    """Packing is positional notation: an oracle that shares nothing with the code."""
    width, values = case
    digits = "".join(f"{value:0{width}b}" for value in values)
    digits += "0" * (-len(digits) % 8)
    expected = bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    assert pack(np.array(values, np.uint32), width) == expected
    assert unpack(expected, len(values), width).tolist() == values
