"""Threads over layers that are large: NumPy lets go of the interpreter in long operations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

THREADS = int(os.environ.get("OMP_NUM_THREADS") or 2)
"""Threads of kronq's own; results do not depend on their number."""

LARGE = 2**17
"""Values of a piece of work from which a second thread helps: below, both wait for the
interpreter (measured)."""

T = TypeVar("T")
R = TypeVar("R")


def map_large(function: Callable[[T], R], items: Iterable[T], *, values: float) -> Iterator[R]:
    """Returns the function's results one after the other, in the order of the items.

    Args:
        function: Called in threads, if an item is large.
        items: No more of them are taken at a time than there are threads.
        values: Values of an item on average.
    """
    if values < LARGE or THREADS < 2 or (isinstance(items, Sized) and len(items) < 2):
        yield from map(function, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(function, item) for item in islice(remaining, THREADS)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in islice(remaining, 1)]
            yield result
