"""BLAS in one thread, where matrices are small.

NumPy's BLAS gives every product a thread for each core. In products of small matrices the threads
mostly wait for each other, spinning, which beside another busy process takes several times the
CPU time. Where work is large, kronq has threads of its own, each on other layers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

_limited = threading.Lock()
"""Held by the block that has limited BLAS; no other changes the number of threads meanwhile."""


@contextlib.contextmanager
def small_matrices() -> Iterator[None]:
    """Limits BLAS to one thread inside the block, or the function that it decorates.

    The number of threads is the process's. Of blocks that overlap, in one thread or in several, the
    first sets it and restores it when it ends.

    Example:
        >>> with small_matrices():
        ...     np.linalg.qr(np.ones((100, 8)))
    """
    if not _limited.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1, user_api="blas"):
            yield
    finally:
        _limited.release()


@cache
def _libraries() -> Any:
    """Finds the BLAS libraries of the process, once: NumPy's is loaded by then."""
    import numpy  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
