"""Payloads that something changed on their way, with a checksum that fits."""

import tracemalloc

from hypothesis import strategies as st

import fedbias as fb

CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4)


def decoded_or_refused(packet, changes, longer):
    """Change bytes and the length of an entropy-coded payload, and decode what that makes.

    Any vector of the right shape will do, or a PacketError; but no other exception, and no memory
    beyond dim.
    """
    payload = bytearray(packet.payload)
    for place, value in changes:
        payload[place % len(payload)] = value
    data = bytes(payload[: len(payload) + longer] + bytes(max(longer, 0)))
    made = fb.Packet(packet.codec, packet.dtype, packet.dim, None, (len(data),), data)
    tracemalloc.start()
    try:
        vector = fb.decode(fb.Packet.from_bytes(bytes(made)), dim=packet.dim)
        assert vector.shape == (packet.dim,) and vector.dtype == packet.dtype
    except fb.PacketError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2_000_000
