"""trellis_coded: close to Shannon's limit, the best path, and every payload is checked."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias.compressors import trellis
from fedbias.compressors.cells import FAR
from tests.tools.payloads import CHANGES, decoded_or_refused

pytest.importorskip("constriction")


def gaussian(dim, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(dim).astype(dtype)


def coded(vector, bits):
    """The packet, what its bytes are decoded to, and the error, in double precision."""
    packet = fb.trellis_coded(bits).encode(vector)
    decoded = fb.decode(fb.Packet.from_bytes(bytes(packet)), dim=vector.size).astype(float)
    return packet, decoded, decoded - vector


@pytest.mark.parametrize("bits", [0.5, 2, 4])
def test_the_error_on_gaussian_entries(bits):
    """d = 10⁶: within 1 % of R·d bits in all, and the error between Shannon's limit at the real
    rate and 1.13 times it; equal cells have 1.42 times, at 0.5 bits 1.23 times.

    Kills: a trellis whose kinds are not four, or in another turn.
    """
    vector = gaussian(10**6)
    packet, _, off = coded(vector, bits)
    real = packet.wire_bits / vector.size
    assert 0.99 * bits <= real <= 1.01 * bits
    ratio = (off @ off) / np.sum(vector.astype(float) ** 2) * 4**real
    assert 1 <= ratio <= 1.13


@pytest.mark.parametrize("dim", [2000, 10**4, 10**5])
@pytest.mark.parametrize("bits", [0.5, 1, 2, 8, 16])
def test_the_rate_is_kept_and_used(dim, bits):
    """Never above R, and at most 1 % below. Kills: a search for the step that stops early."""
    packet = coded(gaussian(dim, np.float64), bits)[0]
    assert 0.99 * bits * dim <= packet.payload_bits <= bits * dim


@pytest.mark.parametrize("bits", [0.5, 1, 2, 4])
def test_the_error_is_orthogonal_to_what_is_decoded(bits):
    """As far as means are resolved, to 1/512 of a step. Kills: middles for means."""
    packet, decoded, off = coded(gaussian(10**5, np.float64), bits)
    step = trellis.entropy_payload.read_numbers(packet).head.step
    assert abs(off @ decoded) <= step / 512 * np.abs(decoded).sum()


# The definition, entry by entry: points of number k and how a number leads on


def point(number, union):
    return (-1) ** union * (number / 2 + 1 / 8)


def following(state, odd):
    """Ungerboeck's parity check: three registers, of which the last one is the union."""
    first, second, third = state >> 2, state >> 1 & 1, state & 1
    return third << 2 | (first ^ odd) << 1 | (second ^ third)


def walked(numbers):
    state, unions = 0, []
    for number in numbers:
        unions.append(state & 1)
        state = following(state, int(number) % 2)
    return unions


def least(places):
    """The cost of the best of all paths, one by one."""
    best = math.inf
    for parities in itertools.product((0, 1), repeat=len(places)):
        cost, state = 0.0, 0
        for place, odd in zip(places, parities, strict=True):
            numbers = range(-40 + odd, 40, 2)
            cost += min((place - point(number, state & 1)) ** 2 for number in numbers)
            state = following(state, odd)
        best = min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dim", [1, 2, 5, 9])
def test_the_path_is_the_best_of_all(seed, dim):
    """Kills: a survivor that is not the better one, or not followed; costs of another state."""
    places = np.random.default_rng(seed).normal(0, 2, dim)
    numbers, signs = trellis.path(places)
    assert [1 - 2 * union for union in walked(numbers)] == signs.tolist()
    off = signs * places - trellis.middle(numbers)
    assert off @ off == pytest.approx(least(places), abs=1e-12)


def test_segments_are_coded_by_themselves():
    """600 entries: three segments, entry i in segment i mod 3; the last row may be shorter.

    Kills: segments that touch, a short last row that is lost.
    """
    for dim in (598, 599, 600):
        places = np.random.default_rng(dim).normal(0, 3, dim)
        numbers, signs = trellis.path(places)
        for first in range(3):
            alone, its_signs = trellis.path(places[first::3])  # at most 200: one segment
            np.testing.assert_array_equal(numbers[first::3], alone)
            np.testing.assert_array_equal(signs[first::3], its_signs)
            assert [1 - 2 * union for union in walked(alone)] == its_signs.tolist()
        np.testing.assert_array_equal(trellis.signs(numbers), signs)


def test_what_is_beyond_all_numbers():
    """Kills: an outlier that bends the path around it, a number beyond the table."""
    huge = [1e300, -np.inf, FAR / 2 - 1, 1 - FAR / 2, *(FAR / 2 + 0.37 * np.arange(20))]
    places = np.concatenate((huge, np.random.default_rng(0).normal(0, 2, 100)))
    numbers, signs = trellis.path(places)
    assert (numbers[:24] == FAR).all() and np.abs(numbers[24:]).max() < 30
    off = (signs * places - trellis.middle(numbers))[24:]
    assert off @ off < 0.02 * 100  # equal cells, half a step wide: 1/48 each
    np.testing.assert_array_equal(trellis.signs(numbers), signs)
    near = np.array([FAR / 2 - 1.01, 1.01 - FAR / 2])
    numbers, signs = trellis.path(near)
    assert np.abs(numbers).max() < FAR and np.abs(signs * near - numbers / 2).max() < 1


def hard(name, dim):
    rng = np.random.default_rng(dim)
    match name:
        case "Cauchy":
            return rng.standard_cauchy(dim)
        case "one-hot":
            return np.eye(1, dim, dim // 2)[0]
        case "constant":
            return np.full(dim, -3.3)
        case "signs":
            return np.where(rng.random(dim) < 0.5, -1.0, 1.0)
        case "sparse":
            return rng.standard_normal(dim) * (rng.random(dim) < 0.01)
        case "fifty powers of ten":
            return 10 ** rng.uniform(-25, 25, dim) / 1e25
    return rng.standard_normal(dim)


HARD = ("normal", "Cauchy", "one-hot", "constant", "signs", "sparse", "fifty powers of ten")


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dim", [1, 3, 100, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1, 1e30])
def test_every_vector(name, dim, dtype, size):
    """Kills: a payload beyond R, an error above ‖v‖, an overflow."""
    vector = (size * hard(name, dim)).astype(dtype)
    for bits in (0.1, 3):
        packet, _, off = coded(vector, bits)
        assert len(packet.payload) <= max(32, bits * dim / 8)
        most = 1 if bits < 1 or dim == 100 else 0.05  # 37 bytes of 100 entries: mostly tables
        assert np.linalg.norm(off) <= most**0.5 * np.linalg.norm(vector.astype(float)) * (1 + 1e-7)


def test_outliers_are_exact_and_the_others_keep_their_error():
    """Five entries of 1e30 in 10⁵, at 4 bits. Kills: escapes at the wrong places or rounded."""
    vector = gaussian(10**5)
    places = [0, 17, 4711, 50_000, 99_999]
    vector[places] = np.array([1, -1, 2, -3, 0.7], np.float32) * 1e30
    decoded = fb.decode(fb.trellis_coded(4).encode(vector))
    np.testing.assert_array_equal(decoded[places], vector[places])
    off = np.delete(decoded.astype(float) - vector, places)
    assert off @ off < 1.16 * 10**5 / 4**4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_the_dtype(dtype):
    """Kills: a step that overflows or that is zero, a decoded infinity."""
    info = np.finfo(dtype)
    for one in (info.max, info.tiny, info.smallest_subnormal):
        vector = np.array([one, -one, 0, one / 2], dtype)
        for bits in (0.1, 16):
            _, decoded, off = coded(vector, bits)
            assert np.isfinite(decoded).all()
            assert np.linalg.norm(off / one) <= 1.5  # of √(9/4)


ONE = "0000f03f"  # the upper half of 1.0


def decoded(payload, dim):
    data = bytes.fromhex(payload.replace(" ", ""))
    made = fb.Packet("trellis_coded", np.dtype(np.float32), dim, None, (len(data),), data)
    return fb.decode(fb.Packet.from_bytes(bytes(made)), dim=dim)


def test_payloads_by_hand():
    """Kills: a first point elsewhere, other distances, a union that is not mirrored."""
    assert decoded("", 3).tolist() == [0, 0, 0]
    assert decoded(ONE + "00 03 00", 3).tolist() == [0.125] * 3  # state 0 to the end
    assert decoded(ONE + "00 03 e0", 3).tolist() == [0] * 3  # 1/8 − 32/256
    assert decoded("00000040 00 0001 04 00", 4).tolist() == [1.25, 1.25, -1.25, 1.25]
    assert decoded(ONE + "00 00 00 04 00", 4).tolist() == [-0.375, -0.375, 0.375, -0.375]


MALFORMED = {
    "a step of zero": ("00000000 00 03 20", "a step of 0.0"),
    "an unknown grain": (ONE + "07 03 20", "its grain is impossible"),
    "no counts": (ONE + "00", "a count has no end"),
    "too few entries": (ONE + "00 02 20", "do not sum to 3"),
    "no centroid": (ONE + "00 03", "too few for its tables"),
    "code for one symbol": (ONE + "00 03 20 01", "one symbol takes no code"),
    "another code": (ONE + "00 01 02 00 00 ffffff", "does not have these counts"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_payloads(case):
    """Kills: an error that names another compressor, or that is not a PacketError."""
    payload, reason = MALFORMED[case]
    with pytest.raises(fb.PacketError, match=f"^trellis_coded: .*{reason}") as caught:
        decoded(payload, 3)
    assert "\n" not in str(caught.value)


@cache
def sent(number):
    vectors = [gaussian(40), 1e30 * gaussian(40), hard("Cauchy", 300), hard("sparse", 999)]
    return fb.trellis_coded(4).encode(vectors[number])


@given(st.integers(0, 3), CHANGES, st.integers(-3, 3))
def test_changed_payloads_are_decoded_or_refused(number, changes, longer):
    """The checksum is right. Kills: an exception of numpy or of the coder; memory beyond dim."""
    decoded_or_refused(sent(number), changes, longer)


@pytest.mark.parametrize("bits", [0, 16.001, math.nan, True, "2"])
def test_refused_bits(bits):
    with pytest.raises(ValueError) as caught:
        fb.trellis_coded(bits)
    sentence = f"trellis_coded: bits must be a number > 0 and <= 16, not {bits!r}"
    assert str(caught.value) == sentence


def test_what_is_promised():
    """A mean is no worse than zero, and no more than that holds for every vector."""
    assert fb.trellis_coded(4).guarantee(100) == fb.Guarantee(False, None, 1.0, None)
    with pytest.raises(ValueError, match="trellis_coded: the length depends on the vector"):
        fb.trellis_coded(4).wire_bytes(100)
