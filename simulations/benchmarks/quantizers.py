"""Every quantizer on one Gaussian vector: its error, its real bytes and its time.

The error is vNMSE = ‖v̂ − v‖²/‖v‖². Shannon's limit at R bits an entry is 4^(−R): no code of any
kind has less on Gaussian entries. Times are compared with numpy's copy of the same vector.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import fedbias as fb
from fedbias.vectors import Vector

from .measure import Finding, in_turns, ratio

DIM = 10**6
RATES = (1, 2, 4)
# OpenFL's EDEN on N(0, 1): bits an entry → vNMSE, headers not counted. Quoted, not measured here.
EDEN = {1: 0.570, 2: 0.133, 4: 0.0096}


def of_rate(bits: int) -> list[fb.Compressor]:
    """The quantizers with so many bits an entry."""
    scalar = [fb.uniform(bits), fb.rotated(fb.uniform(bits)), fb.dithered(bits)]
    lattices: list[fb.Compressor] = [fb.lattice(kind, bits) for kind in ("A2", "D4", "E8")]
    if bits == 1:
        return [fb.sign(), *scalar, *lattices, *coded(bits)]
    lattices += [fb.lattice("E8", bits, full_range=True), fb.lattice("Leech", bits)]
    return [*scalar, *lattices, *coded(bits)]


def coded(bits: float) -> list[fb.Compressor]:
    """Those that choose their length."""
    return [fb.entropy_coded(bits), fb.trellis_coded(bits)]


def benchmark(repeats: int) -> Finding:
    """One row per compressor; some seconds per repeat."""
    vector = np.random.default_rng(0).standard_normal(DIM).astype(np.float32)
    compressors = [*coded(0.5), *(each for bits in RATES for each in of_rate(bits))]
    compressors += [fb.half(), fb.identity()]
    seconds = in_turns(_ways(compressors, vector), repeats)
    results = {repr(each): measured(each, vector, seconds) for each in compressors}
    lines = [["compressor", "bits per entry", "vNMSE", "of the limit", "encode", "decode"]]
    for name, found in results.items():
        speeds = [_shown(found["encode_ratio"]), _shown(found["decode_ratio"])]
        lines.append([name, *_figures(found["bits"], found["vnmse"]), *speeds])
    for bits, vnmse in EDEN.items():
        lines.append([f"OpenFL EDEN, {bits} bit (quoted)", *_figures(bits, vnmse), "", ""])
    copy = 1000 * median(seconds["copy"])
    notes = [
        f"N(0, 1), d = {DIM:,}, float32. Bits per entry: the whole packet's bytes, headers and "
        "tables included. Of the limit: vNMSE over Shannon's limit at that rate, 4^(−bits).",
        f"Encode and decode: times numpy's copy of the vector ({copy:.2g} ms), medians of "
        f"{repeats} turns and their range; encoding ends and decoding starts at a packet.",
        "Gaussian entries are what a rotation makes of others: rotated(…) gains nothing here.",
        "The quoted rows were measured elsewhere and count no headers.",
    ]
    return Finding(lines, notes, results)


def measured(
    compressor: fb.Compressor, vector: Vector, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """The error, the bytes and the times as multiples of a copy."""
    data = bytes(_encoded(compressor, vector))
    wide = vector.astype(np.float64)
    off = fb.decode(fb.Packet.from_bytes(data), dim=vector.size) - wide
    bits, vnmse = 8 * len(data) / vector.size, float(off @ off / (wide @ wide))
    encode, decode = seconds[f"encode {compressor}"], seconds[f"decode {compressor}"]
    return {
        "bytes": len(data),
        "bits": bits,
        "vnmse": vnmse,
        "of_limit": vnmse * 4**bits,
        "encode_ratio": ratio(encode, seconds["copy"]),
        "decode_ratio": ratio(decode, seconds["copy"]),
        "seconds": {"encode": median(encode), "decode": median(decode)},
    }


def _ways(compressors: list[fb.Compressor], vector: Vector) -> dict[str, Callable[[], object]]:
    ways: dict[str, Callable[[], object]] = {"copy": vector.copy}
    for compressor in compressors:
        ways[f"encode {compressor}"] = partial(_encoded, compressor, vector)
        ways[f"decode {compressor}"] = partial(fb.decode, _encoded(compressor, vector))
    return ways


def _encoded(compressor: fb.Compressor, vector: Vector) -> fb.Packet:
    return compressor.encode(vector, np.random.default_rng(1))


def _figures(bits: float, vnmse: float) -> list[str]:
    of_limit = f"{vnmse * 4**bits:.3f} ×" if bits < 10 else ""
    return [f"{bits:.4g}", f"{vnmse:.3g}", of_limit]


def _shown(ratio: tuple[float, float, float]) -> str:
    middle, low, high = ratio
    return f"{middle:.3g} × ({low:.3g} … {high:.3g})"
