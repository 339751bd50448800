"""The rotation: orthonormal, undone exactly, and it spreads what was in one place."""

import math

import numpy as np
import pytest

import fedbias as fb
from fedbias import rotation
from fedbias.rotation import rotate, unrotate


def matrix(dim, seed=0):
    return np.stack([rotate(axis, seed) for axis in np.eye(dim)], axis=1)


@pytest.mark.parametrize("dim", range(1, 41))
def test_the_transform_is_an_orthogonal_matrix(dim):
    """Kills: no normalisation; a transform that drops or repeats an entry; padding."""
    whole = matrix(dim, seed=dim)
    np.testing.assert_allclose(whole @ whole.T, np.eye(dim), atol=1e-14)
    back = np.stack([unrotate(axis, dim) for axis in np.eye(dim)], axis=1)
    np.testing.assert_allclose(back, whole.T, atol=1e-14)


@pytest.mark.parametrize("dim", [1, 2, 3, 64, 1000, 1024, 1025, 70_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_it_is_undone_in_the_dtype_of_the_vector(dim, dtype, size):
    """Kills: signs or places that are not undone; sums that overflow; a changed argument."""
    vector = (size * np.random.default_rng(dim).standard_normal(dim)).astype(dtype)
    vector.flags.writeable = False
    turned = rotate(vector, 3)
    turned.flags.writeable = False
    back = unrotate(turned, 3)
    assert turned.dtype == back.dtype == dtype and turned.shape == back.shape == (dim,)
    norm, unit = np.linalg.norm(vector.astype(float)), 40 * np.finfo(dtype).eps
    assert abs(np.linalg.norm(turned.astype(float)) / norm - 1) <= unit
    assert np.linalg.norm(back.astype(float) - vector) <= unit * norm


def signs(monkeypatch, first, second=()):
    both = np.array(first, float), np.array([*second] or first, float)
    monkeypatch.setattr(rotation, "_signs", lambda dim, seed, dtype: both)


def test_two_and_four_entries_by_hand(monkeypatch):
    """Kills: another order of the places; signs behind the transform in place of before it."""
    signs(monkeypatch, [1, -1])
    np.testing.assert_allclose(rotate(np.array([3.0, 1.0]), 0) * math.sqrt(2), [2, 4])
    signs(monkeypatch, [1, -1, 1, 1])
    turned = rotate(np.array([1.0, 2.0, 3.0, 5.0]), 0)  # even places first: 1, 3, 2, 5
    # signs: 1, −3, 2, 5; pairs: (−2, 4), (7, −3); halves: 5, 1, −9, 7
    np.testing.assert_allclose(2 * turned, [5, 1, -9, 7])


def test_three_entries_by_hand(monkeypatch):
    """The last m = 2 again, with the second signs. Kills: no overlap, one set of signs."""
    signs(monkeypatch, [1, 1, -1], [1, -1, 1])
    turned = rotate(np.array([1.0, 4.0, 3.0]), 0)  # 1, 3, −4 → (4, −2)/√2, −4
    second = math.sqrt(2)  # −(−2/√2)
    expected = [4 / math.sqrt(2), (second - 4) / math.sqrt(2), (second + 4) / math.sqrt(2)]
    np.testing.assert_allclose(turned, expected)


def test_the_signs_are_the_bits_of_the_stream():
    """Kills: signs that depend on more than the seed's raw bits."""
    bits = np.unpackbits(np.frombuffer(np.random.default_rng(7).bytes(3), np.uint8))[:20]
    first, second = rotation._signs(10, 7, np.dtype(np.float32))
    np.testing.assert_array_equal([*first, *second], 1.0 - 2.0 * bits)
    assert first.dtype == np.float32


@pytest.mark.parametrize("dim", [1000, 1024, 1025, 1100, 1500, 2047, 2048])
def test_one_entry_becomes_flat(dim):
    """Exactly where d is a power of two; else no entry beyond 6/√d: a normal entry is beyond with
    probability 2·10⁻⁹, so of the 10⁵ here one false alarm in 5000. Kills: a second transform that
    undoes the first (no new signs: an entry near 1), an overlap that is skipped."""
    for place in (0, 1, dim // 2, dim - 2, dim - 1):
        for seed in range(3):
            turned = rotate(np.eye(1, dim, place)[0], seed)
            assert np.abs(turned).max() * math.sqrt(dim) <= 6
            if dim & (dim - 1) == 0:
                np.testing.assert_allclose(np.abs(turned), dim**-0.5, rtol=1e-12)


@pytest.mark.parametrize("start", [0, 500, 1250])
def test_one_layer_reaches_both_halves(start):
    """All energy in 250 neighbours of 1500: either half has 30 % or more, on average over 50 seeds.

    Half the layer is at even places, and so in the first part; an end that only one transform
    reaches gets no less than its share of it. Kills: places that keep their order (without them
    the first layer leaves the end to the overlap, and the last one the start without anything).
    """
    layer = np.zeros(1500)
    layer[start : start + 250] = np.random.default_rng(start).standard_normal(250)
    shares = []
    for seed in range(50):
        turned = rotate(layer, seed) ** 2
        shares.append([turned[:476].sum(), turned[:750].sum(), turned[750:].sum()])
    early, first, second = np.mean(shares, axis=0) / (layer @ layer)
    assert min(first, second) >= 0.3
    assert early >= 0.15  # the first d − m places, which the second transform leaves alone


def test_seeds_differ_and_travel_with_the_packet():
    """Kills: a fixed seed; a seed that is not sent or not used."""
    vector = np.random.default_rng(0).standard_normal(100)
    assert not np.allclose(rotate(vector, 1), rotate(vector, 2))
    rng = np.random.default_rng(0)
    packets = [fb.rotated(fb.uniform(8)).encode(vector, rng) for _ in range(2)]
    assert packets[0].rotation != packets[1].rotation
    for packet in packets:
        read = fb.Packet.from_bytes(bytes(packet))
        assert read == packet and np.abs(fb.decode(read) - vector).max() < 0.05


def test_rotated_dithering_is_unbiased():
    """The mean of 4000 packets within 5 standard errors in each of 24 entries, and its spread what
    dithering alone has for the rotated vectors, within 10 %: false alarm < 2·10⁻⁵.

    Kills: a rotation that is not undone, dithering whose draws repeat those of the seed.
    """
    vector = np.append(np.random.default_rng(1).standard_normal(23), 10.0)
    rng, compressor, draws = np.random.default_rng(2), fb.rotated(fb.dithered(2)), 4000
    packets = [compressor.encode(vector, rng) for _ in range(draws)]
    off = np.stack([fb.decode(packet) for packet in packets]) - vector
    assert (np.abs(off.mean(axis=0)) <= 5 * off.std(axis=0) / math.sqrt(draws)).all()
    steps = np.array([2 * packet.scale / 3 for packet in packets])
    place = np.stack([rotate(vector, packet.rotation) for packet in packets]) / steps[:, None] + 1.5
    share = np.mod(place, 1)
    expected = (share * (1 - share) * steps[:, None] ** 2).sum(axis=1).mean()
    assert (off**2).sum(axis=1).mean() == pytest.approx(expected, rel=0.1)


def test_a_heavy_entry_no_longer_spoils_the_scale():
    """uniform(4): a 20th of the error, or less. Kills: a rotation that does nothing."""
    vector = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    vector[7] = 300

    def loss(compressor):
        decoded = fb.decode(compressor.encode(vector, np.random.default_rng(0)))
        return float(((decoded - vector) ** 2).sum() / (vector**2).sum())

    assert loss(fb.rotated(fb.uniform(4))) < loss(fb.uniform(4)) / 20


def test_what_rotated_is_is_its_inner():
    """Kills: a guarantee, a radius or a rate of its own."""
    for inner in (fb.uniform(3), fb.sign(), fb.top_k(0.2), fb.lattice("E8", 3), fb.half()):
        outer = fb.rotated(inner)
        assert outer.random and outer.guarantee(40) == inner.guarantee(40)
        for attribute in ("codec", "takes_radius", "carries_scale"):
            assert getattr(outer, attribute) == getattr(inner, attribute)
        assert outer.rate(40) == inner.rate(40)
        assert outer.wire_bytes(40) == inner.wire_bytes(40) + 8
        assert fb.parse(repr(outer), fb.Compressor) == outer
    free = fb.rotated(fb.uniform(3))
    assert free.wire_bytes(40, radius=1.0) == free.wire_bytes(40) - 4


def test_what_cannot_be_rotated():
    """Kills: two rotations in a packet that has room for one; infinities that are sent."""
    with pytest.raises(ValueError, match="inner must not be rotated itself: a packet has one"):
        fb.rotated(fb.rotated(fb.sign()))
    with pytest.raises(ValueError, match="rotated: inner must be like uniform\\(4\\), not 3"):
        fb.rotated(3)
    with pytest.raises(ValueError, match="rotated: the norm of this vector overflows float32"):
        huge = np.full(64, 3e38, np.float32)
        fb.rotated(fb.uniform(4)).encode(huge, np.random.default_rng(0))
