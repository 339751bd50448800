"""b-bit integers ↔ bytes, without waste but for the last byte.

Most significant bit first, integers one behind the other. Eight b-bit integers fill exactly b
bytes, so both directions work on blocks of a multiple of eight and hold a few megabytes at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 16  # integers handled at once: bounds the memory of the bit matrix


def packed_size(count: int, width: int) -> int:
    """Bytes that ``count`` integers of ``width`` bits take."""
    return (count * width + 7) // 8


def pack(values: NDArray[Any], width: int) -> bytes:
    """Pack unsigned integers below 2^width, shape (count,), 0 ≤ width ≤ 32."""
    if width == 0:
        return b""
    if width in (8, 16, 32):
        return values.astype(f">u{width // 8}").tobytes()
    if width == 1:
        return np.packbits(values.astype(np.uint8)).tobytes()
    parts = []
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK].astype(">u4")
        matrix = np.unpackbits(block.view(np.uint8).reshape(-1, 4), axis=1)[:, 32 - width :]
        parts.append(np.packbits(matrix).tobytes())
    return b"".join(parts)


def unpack(data: bytes, count: int, width: int) -> NDArray[np.uint32]:
    """The ``count`` integers that :func:`pack` packed; ``data`` has their exact size."""
    if width == 0:
        return np.zeros(count, np.uint32)
    if width in (8, 16, 32):
        return np.frombuffer(data, f">u{width // 8}").astype(np.uint32)
    raw, out = np.frombuffer(data, np.uint8), np.empty(count, np.uint32)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        piece = raw[start * width // 8 : packed_size(stop, width)]
        matrix = np.zeros((stop - start, 32), np.uint8)
        flat = np.unpackbits(piece, count=(stop - start) * width)
        matrix[:, 32 - width :] = flat.reshape(-1, width)
        out[start:stop] = np.packbits(matrix, axis=1).view(">u4")[:, 0]
    return out
