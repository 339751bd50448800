"""One thread per client: the same sums in the same order, hence the same bits, on every engine."""

from __future__ import annotations

import importlib.util
import sys


def one_thread() -> None:
    """Let numpy's and torch's products run on one thread in this process from now on."""
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
