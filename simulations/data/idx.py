"""Read IDX files, the format in which MNIST and its successors are handed out.

A file is a magic number of four bytes (0, 0, element type, number of dimensions), one big-endian
32-bit size per dimension, then the elements, row-major and big-endian; often the whole is gzipped.
"""

from __future__ import annotations

import gzip
import zlib
from io import BufferedReader
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_DIMENSIONS = 32  # what every version of numpy can hold
_CHUNK = 2**20  # bytes
_GZIP = b"\x1f\x8b"
_Stream = gzip.GzipFile | BufferedReader


class DataError(ValueError):
    """Data that cannot be used: one sentence names the place, what was found, what was expected."""


def read_idx(
    path: str | PathLike[str],
    shape: tuple[int | None, ...] | None = None,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """Read one IDX file, gzipped or plain (its first bytes tell, not its name).

    Parameters
    ----------
    path : path-like
        The file.
    shape : tuple, optional
        The shape that the file must declare; None in a place allows any size there.
    dtype : dtype-like, optional
        The element type that the file must declare.

    Returns
    -------
    ndarray
        The elements in the machine's own byte order.

    Raises
    ------
    DataError
        If the file cannot be read, is cut short, has trailing bytes or a foreign magic number, or
        declares another shape or type. Memory grows with the bytes that are there, never with the
        size that a header declares, and never beyond that size.
    """
    path = Path(path)
    try:
        with _open(path) as stream:
            kind, found = _header(stream, path)
            if dtype is not None and kind.newbyteorder("=") != np.dtype(dtype):
                raise DataError(f"{path}: found elements {kind.name}, expected {np.dtype(dtype)}")
            if shape is not None and not _fits(found, shape):
                raise DataError(f"{path}: found the shape {found}, expected {_shown(shape)}")
            payload = _payload(stream, path, kind, found)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a whole IDX file, found one that cannot be read ({error})"
        ) from error
    return np.frombuffer(payload, kind).reshape(found).astype(kind.newbyteorder("="), copy=False)


def _open(path: Path) -> _Stream:
    with path.open("rb") as file:
        zipped = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _header(stream: _Stream, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = bytes(_take(stream, 4))
    if len(magic) < 4:
        raise DataError(f"{path}: found {len(magic)} bytes, expected a magic number of 4 bytes")
    known = magic[:2] == b"\0\0" and magic[2] in _TYPES and 1 <= magic[3] <= _MOST_DIMENSIONS
    if not known:
        raise DataError(
            f"{path}: found the magic number 0x{magic.hex()}, expected that of an IDX file, "
            "such as 0x00000803 for images or 0x00000801 for labels"
        )
    sizes = bytes(_take(stream, 4 * magic[3]))
    if len(sizes) < 4 * magic[3]:
        raise DataError(
            f"{path}: found {4 + len(sizes)} bytes, expected a header of {4 + 4 * magic[3]} bytes"
        )
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    if 0 in shape:
        raise DataError(f"{path}: found the shape {shape}, expected at least one element")
    return np.dtype(_TYPES[magic[2]]), shape


def _payload(stream: _Stream, path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> bytearray:
    declared = kind.itemsize * prod(shape)
    # One byte more than declared shows trailing bytes, and that there is nothing behind the end
    # makes gzip verify its checksum; a file that unpacks to far more is not read any further.
    payload = _take(stream, declared + 1)
    if len(payload) != declared:
        more = "more than that" if len(payload) > declared else f"{len(payload)}"
        raise DataError(
            f"{path}: expected {declared} bytes behind the header for the shape {shape}, "
            f"found {more}"
        )
    return payload


def _take(stream: _Stream, count: int) -> bytearray:
    """At most ``count`` bytes, read in pieces: a lying ``count`` must not reserve memory."""
    taken = bytearray()
    while len(taken) < count:
        piece = stream.read(min(_CHUNK, count - len(taken)))
        if not piece:
            break
        taken += piece
    return taken


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(found, shape, strict=True)
    )


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
