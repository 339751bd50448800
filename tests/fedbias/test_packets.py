"""The wire: the exact bytes; what is not a packet is refused before it costs memory."""

import math
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbias as fb
from fedbias import packets
from fedbias.rotation import rotate

VECTOR = np.array([0.5, -2.0, 0.0, 1.5, -0.25, 4.0, 1e-3, 3.0, -1.0])
COMPRESSORS = [
    fb.identity(),
    fb.half(),
    fb.sign(),
    fb.uniform(3),
    fb.dithered(5),
    fb.top_k(0.3),
    fb.top_k(0.7),
    fb.random_k(0.3),
    fb.entropy_coded(3.5),
    fb.trellis_coded(3.5),
    fb.rotated(fb.uniform(3)),
    fb.rotated(fb.random_k(0.3)),
    fb.rotated(fb.entropy_coded(2)),
]
NUMBER = {
    "identity": 1,
    "half": 2,
    "sign": 3,
    "uniform": 4,
    "dithered": 5,
    "top_k": 6,
    "random_k": 7,
    "entropy_coded": 9,
    "trellis_coded": 10,
    "directions": 11,
}


def encoded(compressor, vector=VECTOR):
    return compressor.encode(vector, np.random.default_rng(0))


def forged(codec, dim, tail, *, dtype=1, scaled=0, rotated=0, version=1, magic=b"fb"):
    """A packet whose checksum is right whatever the rest says."""
    number, flags = NUMBER.get(codec, codec), scaled + 2 * rotated
    body = struct.pack("<2sBBBBI", magic, version, number, dtype, flags, dim)
    return body + tail + struct.pack("<I", zlib.crc32(body + tail))


def refused(data, **kwargs):
    with pytest.raises(fb.PacketError) as caught:
        fb.decode(fb.Packet.from_bytes(data), **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bytes_of_a_sparse_packet_by_hand():
    """Kills: another byte order, index width, field order or checksum."""
    packet = fb.top_k(0.5).encode(np.array([0, 3, 0, -1], np.float32))
    head = "6662 01 06 01 00 04000000"  # magic, version 1, codec 6, float32, no scale, dim 4
    body = head + "02000000" + "70" + "00004040 000080bf"  # k = 2; places 01 11 ····; 3, −1
    assert bytes(packet).hex() == (body + "2390deec").replace(" ", "")
    assert packet.wire_bits == 8 * 27 and packet.payload_bits == 2 * (2 + 32)


def test_bytes_of_a_scaled_packet_by_hand():
    """Kills: a scale in the wrong dtype or behind the fields."""
    packet = fb.uniform(3).encode(np.array([2.0, -2.0, 0.5]))
    head = "6662 01 04 02 01 03000000"  # codec 4, float64, with a scale, dim 3
    codes = "e280"  # cells 7, 0, 5: 111 000 10|1 ·······
    body = head + "0000000000000040" + "03" + codes
    assert bytes(packet)[:-4].hex() == body.replace(" ", "")
    assert packet.payload_bits == 9 and packet.wire_bits == 8 * (10 + 8 + 1 + 2 + 4)
    free = fb.uniform(3).encode(np.array([2.0, -2.0, 0.5]), radius=2.0)  # a radius costs nothing
    assert bytes(free)[:-4].hex() == "66620104020003000000" + "03" + codes


def test_bytes_of_a_rotated_packet_by_hand():
    """Kills: a seed that is not sent, one before the scale, another flag."""
    vector = np.array([2.0, -2.0, 0.5])
    packet = fb.rotated(fb.uniform(3)).encode(vector, np.random.default_rng(5))
    seed = int(np.random.default_rng(5).integers(2**63))
    inner = fb.uniform(3).encode(rotate(vector, seed))
    plain, data = bytes(inner), bytes(packet)
    assert packet.rotation == seed and plain[5] == 1 and data[5] == 3
    assert data[:5] + data[6:18] == plain[:5] + plain[6:18]  # the header and the scale
    assert data[18:26] == struct.pack("<Q", seed) and data[26:-4] == plain[18:-4]
    assert packet.payload_bits == 9 and packet.wire_bits == inner.wire_bits + 64
    free = fb.rotated(fb.uniform(3)).encode(vector, np.random.default_rng(5), radius=4.0)
    assert bytes(free)[5] == 2 and bytes(free)[10:18] == data[18:26]


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_truncation_bit_flip_and_extension_is_refused(compressor, dtype):
    """Exhaustive. Kills: a length or a checksum that is not compared."""
    data = bytes(encoded(compressor, VECTOR.astype(dtype)))
    packet = fb.Packet.from_bytes(data)
    assert bytes(packet) == data and packet == encoded(compressor, VECTOR.astype(dtype))
    spoiled = [data[:length] for length in range(len(data))]
    spoiled += [data[start:] for start in range(1, len(data))]
    spoiled += [data + b"\0", data + b"\xff" * 9, data + data, b"\0" + data]
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        spoiled.append(bytes(flipped))
    for other in spoiled:
        with pytest.raises(fb.PacketError):
            fb.Packet.from_bytes(other)


ONE = struct.pack("<f", 1.0)
IMPOSSIBLE = {
    "another magic": (forged("identity", 1, ONE, magic=b"FB"), "not a packet"),
    "another version": (forged("identity", 1, ONE, version=2), "not a packet of version 1"),
    "unknown codec": (forged(0, 1, ONE), "impossible header: codec 0"),
    "unknown dtype": (forged("identity", 1, ONE, dtype=3), "dtype 3"),
    "a flag beyond two": (forged("uniform", 1, ONE + b"\1\0", scaled=5), "flags 5"),
    "all flags": (forged("identity", 1, ONE, scaled=255), "flags 255"),
    "seed cut off": (forged("sign", 1, ONE + bytes(7), scaled=1, rotated=1), "truncated"),
    "dim 0": (forged("identity", 0, b""), "dim 0"),
    "shorter than dim": (forged("identity", 2, ONE), "takes 22 bytes, not 18"),
    "longer than dim": (forged("identity", 1, ONE * 2), "takes 18 bytes, not 22"),
    "fields cut off": (forged("top_k", 1, b"\1"), "truncated in its header"),
    "scale cut off": (forged("sign", 1, b"\1\2", scaled=1), "truncated in its header"),
    "bits 0": (forged("uniform", 1, ONE + b"\0", scaled=1), "not 0"),
    "bits 17": (forged("dithered", 1, ONE + b"\x11\0\0\0", scaled=1), "not 17"),
    "k = 0": (forged("top_k", 4, struct.pack("<I", 0)), "not 0"),
    "k > dim": (forged("top_k", 1, struct.pack("<I", 2) + b"\0" + ONE * 2), "not 2"),
    "random k = 0": (forged("random_k", 4, struct.pack("<IQ", 0, 1)), "not 0"),
    "random k > dim": (forged("random_k", 1, struct.pack("<IQ", 2, 1) + ONE * 2), "not 2"),
    "a scale without use": (forged("identity", 1, ONE + ONE, scaled=1), "the scale 1"),
    "index beyond dim": (
        forged("top_k", 10, struct.pack("<I", 2) + b"\x1c" + ONE * 2),
        "2 ascending indices below 10",
    ),
    "unsorted": (forged("top_k", 16, struct.pack("<I", 2) + b"\x31" + ONE * 2), "ascending"),
    "repeated": (forged("top_k", 16, struct.pack("<I", 2) + b"\x33" + ONE * 2), "ascending"),
    "bitmap of 2 for 3": (forged("top_k", 8, struct.pack("<I", 3) + b"\x81" + ONE * 3), "not 3"),
    "bitmap of 4 for 3": (forged("top_k", 8, struct.pack("<I", 3) + b"\xe1" + ONE * 3), "not 3"),
    "no directions": (forged("directions", 1, struct.pack("<QI", 1, 0)), "no direction at all"),
    "more scalars than said": (
        forged("directions", 1, struct.pack("<QI", 1, 1) + ONE * 2),
        "not 34",
    ),
    "fewer scalars than said": (
        forged("directions", 1, struct.pack("<QI", 1, 3) + ONE),
        "takes 38",
    ),
    "no slope": (
        forged("directions", 1, struct.pack("<QI2f", 1, 2, math.nan, math.nan)),
        "no direction has a finite slope",
    ),
    "an infinite slope": (
        forged("directions", 1, struct.pack("<QI2f", 1, 2, 1, -math.inf)),
        "an infinite slope",
    ),
    "a scaled combination": (
        forged("directions", 1, ONE + struct.pack("<QIf", 1, 1, 1), scaled=1),
        "the scale 1",
    ),
    "empty bitmap": (forged("top_k", 8, struct.pack("<I", 3) + b"\0" + ONE * 3), "not 3"),
    "half beyond float32": (forged("half", 1, struct.pack("<he", 128, 1)), "128 overflows float32"),
    "half beyond float64": (
        forged("half", 1, struct.pack("<he", 1024, 1), dtype=2),
        "1024 overflows float64",
    ),
}
for value in (-1.0, float("nan"), float("inf"), -float("inf")):
    IMPOSSIBLE[f"scale {value}"] = (
        forged("sign", 1, struct.pack("<f", value) + b"\0", scaled=1),
        f"the scale {value}",
    )


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_packets_with_a_right_checksum(case):
    """Kills: a check dropped from a header, a scale or the indices."""
    data, reason = IMPOSSIBLE[case]
    assert reason in refused(data).replace("the places are not 3", "not 3")


def test_possible_packets_next_to_the_impossible_ones():
    """The forger above is right where nothing is wrong."""

    def decoded(data):
        return fb.decode(fb.Packet.from_bytes(data)).tolist()

    assert decoded(forged("identity", 1, ONE)) == [1]
    assert decoded(forged("top_k", 3, struct.pack("<I", 2) + b"\xa0" + ONE * 2)) == [1, 0, 1]
    indices = decoded(forged("top_k", 10, struct.pack("<I", 2) + b"\x19" + ONE * 2))
    assert np.flatnonzero(indices).tolist() == [1, 9]
    assert decoded(forged("top_k", 8, struct.pack("<I", 3) + b"\x83" + ONE * 3)) == [
        *(1, 0, 0, 0, 0, 0, 1, 1)
    ]
    assert decoded(forged("half", 1, struct.pack("<he", 127, 1))) == [2.0**127]
    assert decoded(forged("half", 1, struct.pack("<he", 32767, 0))) == [0]
    assert decoded(forged("half", 1, struct.pack("<he", -32768, 1))) == [0]
    assert decoded(forged("sign", 1, ONE + b"\x80", scaled=1)) == [1]
    assert decoded(forged("sign", 1, ONE + b"\0", scaled=1)) == [-1]
    slopes = forged("directions", 1, struct.pack("<QI2f", 2**64 - 1, 2, math.nan, 1), dtype=2)
    assert decoded(slopes) == [np.random.default_rng([2**64 - 1, 1]).standard_normal()]
    seed = struct.pack("<Q", 2**64 - 1)  # no encoder draws it, any may be undone
    turned = decoded(forged("sign", 1, ONE + seed + b"\0", scaled=1, rotated=1))
    assert turned in ([-1], [1])


HUGE = 2**32 - 1
GREEDY = [
    forged("identity", HUGE, ONE),
    forged("half", HUGE, b"\0" * 4),
    forged("sign", HUGE, ONE + b"\0", scaled=1),
    forged("uniform", HUGE, b"\2\0"),
    forged("dithered", HUGE, ONE + b"\2\0", scaled=1),
    forged("top_k", HUGE, struct.pack("<II", 1, 7) + ONE),  # a packet of 23 bytes, well formed
    forged("top_k", HUGE, struct.pack("<II", HUGE, 7) + ONE),
    forged("random_k", HUGE, struct.pack("<IQ", 1, 7) + ONE),  # and another one
    forged("random_k", HUGE, struct.pack("<IQ", HUGE, 7) + ONE),
    forged("identity", HUGE, b"\7" * 8 + ONE, rotated=1),
    forged("random_k", HUGE, b"\7" * 8 + struct.pack("<IQ", 1, 7) + ONE, rotated=1),
    forged("entropy_coded", HUGE, struct.pack("<I", 0)),  # 18 bytes: zeros
    forged("trellis_coded", HUGE, struct.pack("<I", 0)),
    forged("directions", HUGE, struct.pack("<QI", 7, 1) + ONE),
]


@pytest.mark.parametrize("data", GREEDY, ids=range(len(GREEDY)))
def test_a_huge_dim_is_refused_before_memory_is_allocated(data):
    """Kills: a dim that is compared after decoding (34 GB here). The peak is a few kB."""
    tracemalloc.start()
    try:
        refused(data, dim=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_the_dim_that_the_receiver_expects(compressor):
    packet = encoded(compressor)
    assert fb.decode(packet, dim=9).shape == (9,)
    for wrong in (1, 8, 10):
        with pytest.raises(fb.PacketError, match=f"expected a vector of dim {wrong}, .* has 9"):
            fb.decode(packet, dim=wrong)


@pytest.mark.parametrize("compressor", [fb.uniform(4), fb.dithered(4)], ids=repr)
def test_a_radius_both_sides_know(compressor):
    """Kills: a default radius of 1; a radius that overrules a packet's own scale."""
    rng = np.random.default_rng(0)
    packet = compressor.encode(VECTOR, rng, radius=8.0)
    back = fb.Packet.from_bytes(bytes(packet))
    assert back.scale is None and packet == back
    with pytest.raises(fb.PacketError, match="preset radius: pass it"):
        fb.decode(back)
    decoded = fb.decode(back, radius=8.0)
    assert np.abs(decoded - VECTOR).max() <= 2 * 8 / 15
    np.testing.assert_array_equal(fb.decode(back, radius=16.0), 2 * decoded)
    np.testing.assert_array_equal(fb.decode(fb.identity().encode(VECTOR, radius=8.0), 8.0), VECTOR)


def test_shorter_than_any_packet():
    with pytest.raises(fb.PacketError, match="a packet has at least 14 bytes: 13"):
        fb.Packet.from_bytes(b"fb\x01" + bytes(10))


def test_a_radius_that_has_no_use_is_refused():
    """As decode documents: the packet has its own scale and the caller believes another."""
    with pytest.raises(fb.PacketError):
        fb.decode(fb.uniform(4).encode(VECTOR), radius=8.0)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_a_decoded_vector_belongs_to_the_caller(compressor):
    """Kills: a read-only view of the message, or one that two decodings share."""
    packet = encoded(compressor)
    before, changed = fb.decode(packet), fb.decode(packet)
    changed += 1
    np.testing.assert_array_equal(fb.decode(packet), before)


def survives(data):
    """Decode or refuse; anything else fails the test."""
    try:
        packet = fb.Packet.from_bytes(data)
        vector = fb.decode(packet, 1.0 if packet.scale is None else None, dim=min(packet.dim, 64))
    except fb.PacketError:
        return
    assert vector.shape == (packet.dim,) and vector.dtype == packet.dtype
    assert bytes(packet) == data


@given(st.binary(max_size=80))
def test_foreign_bytes(data):
    survives(data)
    survives(b"fb\x01" + data)


@given(
    st.sampled_from(list(NUMBER)),
    st.sampled_from([1, 2]),
    st.one_of(st.none(), st.floats(width=32)),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    st.one_of(st.integers(1, 40), st.integers(1, HUGE)),
    st.integers(0, 20),
    st.binary(min_size=1, max_size=40),
)
def test_foreign_bytes_behind_a_likely_header(codec, dtype, scale, seed, dim, field, payload):
    """Fuzz behind the checksum and the length, so that the decoders are reached."""
    known, itemsize = packets._BY_NAME[codec], 4 * dtype
    fields = (field, 7)[: len(known.fields)]
    try:
        length = min(500, known.sizes(dim, itemsize, fields)[1])
    except fb.PacketError:
        length = len(payload)
    tail = b"" if scale is None else struct.pack("<f" if dtype == 1 else "<d", scale)
    tail += b"" if seed is None else struct.pack("<Q", seed)
    tail += struct.pack("<" + known.fields, *fields) + (payload * 500)[:length]
    flags = {"scaled": int(scale is not None), "rotated": int(seed is not None)}
    survives(forged(codec, dim, tail, dtype=dtype, **flags))


def test_numbers_on_the_wire_are_never_reused():
    """Kills: a renumbered codec, and two codecs with one number."""
    known = {name: codec.number for name, codec in packets._BY_NAME.items()}
    assert NUMBER.items() <= known.items()
    for taken in ({"name": "identity", "number": 250}, {"name": "brand new", "number": 1}):
        with pytest.raises(ValueError, match="registered twice"):
            packets.register(packets.Codec(**taken, fields="", sizes=None, decode=None))
