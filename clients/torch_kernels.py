"""Torch where more than a gradient is asked of it: kernels that can, and a word where none does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.backends import cudnn, mha, mkldnn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def unfused(module: nn.Module) -> Iterator[None]:
    """Without the fused kernels of attention and recurrent layers, which have a gradient alone."""
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    fast, onednn, cuda = mha.get_fastpath_enabled(), bool(mkldnn.enabled), bool(cudnn.enabled)
    mha.set_fastpath_enabled(False)
    mkldnn.enabled = onednn and not recurrent  # type: ignore[assignment]
    cudnn.enabled = cuda and not recurrent
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(fast)
        mkldnn.enabled = onednn  # type: ignore[assignment]
        cudnn.enabled = cuda


@contextmanager
def explained(words: tuple[str, ...], said: str) -> Iterator[None]:
    """What torch cannot do, as one sentence instead of its own paragraphs.

    Parameters
    ----------
    words : tuple of str
        An error of torch's is such a one if its first sentence holds one of them.
    said : str
        The sentence; ``{reason}`` stands for torch's first one.

    Raises
    ------
    ValueError
        In the place of such an error; others (out of memory, say) stay as they are.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].split(". ")[0].removesuffix(".") if str(error) else ""
        if not any(word in reason for word in words):
            raise
        raise ValueError(said.format(reason=reason)) from error
