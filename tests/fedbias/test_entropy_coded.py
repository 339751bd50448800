"""entropy_coded: the rate is kept, the error is what theory says, and every payload is checked."""

import math
import struct
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias import extras_entropy
from fedbias.compressors import cells, entropy, entropy_payload
from fedbias.packets import payload_bits
from tests.tools.payloads import CHANGES, decoded_or_refused

pytest.importorskip("constriction")


def gaussian(dim, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(dim).astype(dtype)


def coded(vector, bits):
    """The packet, what its bytes are decoded to, and the error, in double precision."""
    packet = fb.entropy_coded(bits).encode(vector)
    decoded = fb.decode(fb.Packet.from_bytes(bytes(packet)), dim=vector.size).astype(float)
    return packet, decoded, decoded - vector


@pytest.mark.parametrize(
    ("bits", "most"), [(0.5, 1.25), (1, 1.42), (2, 1.45), (4, 1.45), (9, 1.45)]
)
def test_the_error_on_gaussian_entries(bits, most):
    """d = 10⁶: within 1 % of R·d bits in all, and the error between Shannon's limit at the real
    rate and ``most`` times it. The sample's ‖v‖² is within 0.5 % of d (3.5 sigma).

    Kills: centroids that are midpoints, a table that is not counted, a step that wastes rate.
    """
    vector = gaussian(10**6)
    packet, _, off = coded(vector, bits)
    real = packet.wire_bits / vector.size
    assert 0.99 * bits <= real <= 1.01 * bits
    ratio = (off @ off) / np.sum(vector.astype(float) ** 2) * 4**real
    assert 1 <= ratio <= most


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_rate_is_kept_and_used(bits):
    """d = 10⁴: never above R, and at most 1 % below. Kills: a rate solved without the tables."""
    packet = coded(gaussian(10**4), bits)[0]
    assert 0.99 * bits * 10**4 <= packet.payload_bits <= bits * 10**4


@pytest.mark.parametrize("name", ["normal", "Cauchy", "outliers 1e4", "sparse"])
@pytest.mark.parametrize("bits", [0.5, 3, 11])
def test_the_estimate_that_the_step_is_solved_with(name, bits):
    """Within 12 bytes of the payload, all tables included. Kills: a table that is not counted."""
    vector = hard(name, 5000)
    magnitude, negative = np.abs(vector), vector < 0
    step, grain = entropy.finest(magnitude, negative, bits * 5000, 64)
    finest = cells.symbols(entropy_payload.cells(magnitude, step), negative, 6)
    estimate = entropy._bits(np.bincount(finest, minlength=2433), grain, 64)
    assert abs(estimate / 8 - len(entropy_payload.write(vector, step, grain))) <= 12


def test_an_estimate_that_is_too_low_is_corrected(monkeypatch):
    """Kills: a payload beyond R where the estimate said that it fits."""
    honest = entropy._bits
    monkeypatch.setattr(entropy, "_bits", lambda *given: honest(*given) - 8 * 40)
    packet = fb.entropy_coded(2).encode(gaussian(10**4))
    assert 0.98 * 2 * 10**4 <= packet.payload_bits <= 2 * 10**4


@pytest.mark.parametrize("dim", [1, 2, 5, 20, 100, 400])
@pytest.mark.parametrize("bits", [0.01, 0.64, 3])
def test_a_small_vector_has_32_bytes(dim, bits):
    """Kills: a payload that grows with what few entries need, or that says nothing."""
    packet, decoded, off = coded(gaussian(dim), bits)
    assert 0 < len(packet.payload) <= max(32, bits * dim / 8)
    assert decoded.any() and (off @ off) < np.sum(gaussian(dim).astype(float) ** 2)


@pytest.mark.parametrize("bits", [0.5, 1, 2, 4])
def test_the_error_is_orthogonal_to_what_is_decoded(bits):
    """As far as centroids are resolved, 1/512 of a step; at 4 bits cells far out share theirs.

    Kills: midpoints for centroids (a cosine of √vNMSE: .075 at 4 bits, more below).
    """
    packet, decoded, off = coded(gaussian(10**5, np.float64), bits)
    step = entropy_payload._read_head(packet.payload, packet.dim)[0].step
    resolved = step / 512 * math.sqrt(packet.dim) * np.linalg.norm(decoded)
    assert abs(off @ decoded) <= 0.3 * resolved  # the cells' roundings have both signs
    assert abs(off @ decoded) < 3e-3 * np.linalg.norm(off) * np.linalg.norm(decoded)


def hard(name, dim):
    rng = np.random.default_rng(dim)
    normal = rng.standard_normal(dim)
    places = np.arange(0, dim, dim // 5 + 1)
    match name:
        case "Cauchy":
            return rng.standard_cauchy(dim)
        case "outliers 1e4":
            normal[places] = 1e4
        case "outliers 1e30":
            normal[places] *= 1e30
        case "one-hot":
            return np.eye(1, dim, dim // 2)[0]
        case "constant":
            return np.full(dim, -3.3)
        case "sparse":
            return normal * (rng.random(dim) < 0.01)
        case "fifty powers of ten":
            return 10 ** rng.uniform(-25, 25, dim)
    return normal


HARD = ("Cauchy", "outliers 1e4", "outliers 1e30", "one-hot", "constant", "sparse")


@pytest.mark.parametrize("name", [*HARD, "fifty powers of ten"])
@pytest.mark.parametrize("dim", [3, 100, 20_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_heavy_tails_neither_break_the_rate_nor_the_rest(name, dim, dtype):
    """Kills: tables as large as the range, outliers beyond the integers, an error above ‖v‖²."""
    vector = hard(name, dim).astype(dtype)
    energy = np.sum(vector.astype(float) ** 2)
    for bits in (0.5, 3):
        packet, _, off = coded(vector, bits)
        assert len(packet.payload) <= max(32, bits * dim / 8)
        assert off @ off <= energy * (1 if bits < 1 else 0.1)


def test_outliers_are_exact_and_the_others_keep_their_error():
    """Five entries of 1e30 in 10⁵, at 4 bits. Kills: escapes at the wrong places or rounded."""
    vector = gaussian(10**5)
    places = [0, 17, 4711, 50_000, 99_999]
    vector[places] = np.array([1, -1, 2, -3, 0.7], np.float32) * 1e30
    decoded = fb.decode(fb.entropy_coded(4).encode(vector))
    np.testing.assert_array_equal(decoded[places], vector[places])
    off = np.delete(decoded.astype(float) - vector, places)
    assert off @ off < 1.5 * 10**5 / 4**4


def test_what_no_code_fits_is_zero():
    """One bit an entry is in the signs; half a bit is not enough. Kills: a payload beyond R."""
    signs = np.where(np.random.default_rng(0).random(10**4) < 0.5, -1.0, 1.0)
    packet, decoded, _ = coded(signs, 0.5)
    assert packet.payload == b"" and not decoded.any()
    packet, _, off = coded(signs, 1.1)
    assert 1.0 * 10**4 <= packet.payload_bits <= 1.1 * 10**4 and np.abs(off).max() < 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_the_dtype(dtype):
    """Kills: a step that overflows or that is zero, a decoded infinity."""
    info = np.finfo(dtype)
    for one in (info.max, info.tiny, info.smallest_subnormal):
        vector = np.array([one, -one, 0, one / 2], dtype)
        _, decoded, off = coded(vector, 16)
        assert np.isfinite(decoded).all() and (np.abs(off) <= np.abs(vector.astype(float))).all()
    for seed in range(8):  # the middle of the last cell may lie beyond the dtype
        vector = (np.random.default_rng(seed).uniform(-1, 1, 2000) * info.max).astype(dtype)
        vector[0] = info.max
        decoded = fb.decode(fb.entropy_coded(8).encode(vector))
        assert np.isfinite(decoded).all() and decoded[0] > 0.9 * info.max


@pytest.mark.parametrize("grain", cells.GRAINS)
def test_symbols_stand_for_their_numbers(grain):
    """Every number below 5000, some beyond, both signs. Kills: a gap or an overlap of symbols."""
    known = cells.table(grain)
    large = np.random.default_rng(0).integers(5000, cells.FAR, 2000)
    magnitude = np.concatenate((np.arange(5000), large, [cells.FAR - 1])).astype(np.int32)
    for sign in (-1, 1):
        symbol = cells.symbols(magnitude, np.full(magnitude.shape, sign < 0), grain)
        behind = magnitude - known.lowest[symbol]
        assert (behind >= 0).all() and (behind < 1 << known.width[symbol]).all()
        assert (known.sign[symbol] == sign)[magnitude > 0].all()
        finest = cells.symbols(magnitude, np.full(magnitude.shape, sign < 0), 6)
        np.testing.assert_array_equal(cells.coarser(grain)[finest], symbol)
    far = np.full(2, cells.FAR, np.int32)
    assert (cells.symbols(far, np.array([True, False]), grain) == known.escape).all()
    first = cells.symbols(np.array([0, 1, 1], np.int32), np.array([True, True, False]), grain)
    assert first.tolist() == [0, 1, 2]


ONE = "0000f03f"  # the upper half of 1.0


def decoded(payload, dim, dtype=np.float32):
    data = bytes.fromhex(payload.replace(" ", ""))
    made = fb.Packet("entropy_coded", np.dtype(dtype), dim, None, (len(data),), data)
    return fb.decode(fb.Packet.from_bytes(bytes(made)), dim=dim)


def test_payloads_by_hand():
    """Kills: another order of the tables, other units of the centroids, misplaced plain bits."""
    assert decoded("", 3).tolist() == [0, 0, 0]
    assert decoded(ONE + "00 03 20", 3).tolist() == [0.125] * 3  # 32/256 beside zero
    assert decoded(ONE + "00 0001 03 c0", 3).tolist() == [0.75] * 3  # two zeros, then +1
    assert decoded("00000040 00 0000 03 40", 3).tolist() == [-1.5] * 3  # −1 + 1/4, the step is 2
    assert decoded(ONE + "00 0003 03 a0", 3).tolist() == [3, 2, 3]  # 2 + a bit: 1 0 1
    raw = struct.pack("<2f", 1e30, -7).hex()
    assert decoded(ONE + "00 0031 02" + raw, 2).tolist() == [np.float32(1e30), -7]
    sent = fb.entropy_coded(16).encode(np.array([3.0, 3.0], np.float32)).payload.hex()
    assert sent.endswith("02" + struct.pack("<2f", 3, 3).hex())  # as they are, where that fits
    assert payload_bits("entropy_coded", 3, np.dtype(np.float32), (7,)) == 56


MALFORMED = {
    "a step of zero": ("00000000 00 03 20", "a step of 0.0"),
    "a negative step": ("0000f0bf 00 03 20", "a step of -1.0"),
    "an infinite step": ("0000f07f 00 03 20", "a step of inf"),
    "no grain": (ONE, "a step of nan"),
    "an unknown grain": (ONE + "07 03 20", "its grain is impossible"),
    "no counts": (ONE + "00", "a count has no end"),
    "too few entries": (ONE + "00 02 20", "do not sum to 3"),
    "too many entries": (ONE + "00 04 20", "do not sum to 3"),
    "a count without end": (ONE + "00 838080808000", "a count has no end"),
    "symbols beyond the last": (ONE + "00 0032 03", "do not sum to 3"),
    "zeros beyond every symbol": (ONE + "00 00ffffffff0f 03", "do not sum to 3"),
    "no centroid": (ONE + "00 03", "too few for its tables"),
    "half an escape": (ONE + "00 0031 03" + "00" * 11, "too few for its tables"),
    "no plain bits": (ONE + "00 0003 03", "too few for its tables"),
    "code for one symbol": (ONE + "00 03 20 01", "one symbol takes no code"),
    "zeros behind": (ONE + "00 03 20 00", "ends in zeros"),
    "two symbols without code": (ONE + "00 0101 0101 0000", "do not sum|these counts"),
    "another code": (ONE + "00 01 02 00 00 ffffff", "does not have these counts"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_payloads(case):
    """Kills: a check of the step, the grain, the counts, the lengths or the code that is lost."""
    payload, reason = MALFORMED[case]
    with pytest.raises(fb.PacketError, match=reason) as caught:
        decoded(payload, 3)
    assert "\n" not in str(caught.value)


def test_a_code_of_other_counts():
    """Two and one in the code, one and two in the table: the escapes and bits behind would differ.

    Kills: counts that are believed.
    """
    stream, counts = extras_entropy._stream(), np.array([1, 2])
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(np.array([0, 0, 1], np.int32), extras_entropy._model(stream, counts))
    data = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
    with pytest.raises(ValueError, match="does not have these counts"):
        extras_entropy.decode(data, counts, 3)


@cache
def sent(number):
    vectors = [gaussian(40), hard("outliers 1e30", 40), hard("Cauchy", 300), hard("sparse", 999)]
    return fb.entropy_coded(4).encode(vectors[number])


@given(st.integers(0, 3), CHANGES, st.integers(-3, 3))
def test_changed_payloads_are_decoded_or_refused(number, changes, longer):
    """The checksum is right. Kills: an exception of numpy or of the coder; memory beyond dim."""
    decoded_or_refused(sent(number), changes, longer)


@pytest.mark.parametrize("bits", [0, -1, 16.001, math.nan, math.inf, True, "2", None])
def test_refused_bits(bits):
    with pytest.raises(ValueError) as caught:
        fb.entropy_coded(bits)
    sentence = f"entropy_coded: bits must be a number > 0 and <= 16, not {bits!r}"
    assert str(caught.value) == sentence


def test_the_extra_that_is_missing(monkeypatch):
    """Kills: an ImportError that does not say what to install."""
    packet = fb.entropy_coded(2).encode(gaussian(50))
    monkeypatch.setitem(sys.modules, "constriction", None)
    for work in (lambda: fb.entropy_coded(2).encode(gaussian(50)), lambda: fb.decode(packet)):
        with pytest.raises(
            ImportError,
            match="needs constriction: pip install constriction, or fedbias\\[entropy\\]$",
        ):
            work()


def test_what_is_promised():
    """Zero is always a code, and no more than that holds for every vector."""
    assert fb.entropy_coded(4).guarantee(100) == fb.Guarantee(False, None, 1.0, None)
    for refused in (fb.entropy_coded(4), fb.rotated(fb.entropy_coded(4))):
        with pytest.raises(ValueError, match="encode it and look at wire_bits"):
            refused.wire_bytes(100)
