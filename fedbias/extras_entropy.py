"""Symbols ↔ bytes at their entropy: rANS by constriction, the extra ``entropy``.

Both directions build the model from the same whole counts, so they agree bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int32]
Counts = NDArray[np.int64]


def encode(symbols: Symbols, counts: Counts) -> bytes:
    """Code symbols 0 … n − 1, of which symbol i occurs ``counts[i]`` ≥ 1 times.

    Returns
    -------
    bytes
        Little-endian words of 32 bits without the zeros at their end; empty for one symbol alone.

    Raises
    ------
    ImportError
        Names the extra, where constriction is not installed.
    """
    stream = _stream()
    if len(counts) == 1:
        return b""
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(symbols, _model(stream, counts))
    data: bytes = coder.get_compressed().astype("<u4").tobytes()
    return data.rstrip(b"\0")


def decode(data: bytes, counts: Counts, dim: int) -> Symbols:
    """The ``dim`` symbols that :func:`encode` coded.

    Raises
    ------
    ValueError
        For bytes that no such symbols have.
    ImportError
        Names the extra, where constriction is not installed.
    """
    stream = _stream()
    if data.endswith(b"\0"):
        raise ValueError("the code ends in zeros")
    if len(counts) == 1:
        if data:
            raise ValueError("one symbol takes no code")
        return np.zeros(dim, np.int32)
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
    coder = stream.stack.AnsCoder(words)
    symbols: Symbols = coder.decode(_model(stream, counts), dim)
    if not coder.is_empty() or not np.array_equal(_counted(symbols, len(counts)), counts):
        raise ValueError("the code does not have these counts")
    return symbols


def _counted(symbols: Symbols, kinds: int) -> Counts:
    return np.bincount(symbols, minlength=kinds)


def _model(stream: Any, counts: Counts) -> Any:
    # perfect=False in words: the default differs between releases, and so would the bytes.
    return stream.model.Categorical(counts.astype(np.float64), perfect=False)


def _stream() -> Any:
    try:
        import constriction
    except ImportError as missing:
        raise ImportError(
            "entropy coding needs constriction: pip install constriction, or fedbias[entropy]"
        ) from missing
    return constriction.stream
