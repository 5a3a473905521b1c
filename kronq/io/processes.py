"""A stream of like pieces of work in several processes, each with one thread."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from kronq.io.shared_items import Sender, SharedItem, receive

T = TypeVar("T")
R = TypeVar("R")

_OF_WORKERS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**27),
}
"""Variables that are read when a process begins, or loads a library.

NumPy's BLAS and kronq's own threads are limited by the first three. The others have glibc keep the
memory of arrays of up to 32 MB for the next ones: the pages of new memory, which the system fills
with zeros first, took a tenth of the time of an adapter in native codes.
"""
_AHEAD = 2
"""Pieces of work that wait, for each process."""


def map_stream(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yields the function's results in the order of the items, which may be without end.

    Args:
        function: Of a module, or a ``partial`` of one, so that other processes find it.
        items: Taken when a process is free, and a few ahead.
        workers: Number of processes; 1 for this one alone.
    """
    if workers == 1:
        yield from map(function, items)
        return
    waiting: deque[tuple[SharedItem, Future[R]]] = deque()
    context, sender = multiprocessing.get_context("spawn"), Sender()

    def next_result() -> R:
        item, future = waiting.popleft()
        result = future.result()
        sender.received(item)
        return result

    with (
        contextlib.closing(sender),
        _variables_of_workers(),
        ProcessPoolExecutor(workers, context, _end_with_parent) as pool,
    ):
        try:
            for item in items:
                sent = sender.send(item)
                waiting.append((sent, pool.submit(_call, function, sent)))
                if len(waiting) >= workers * _AHEAD:
                    yield next_result()
            while waiting:
                yield next_result()
        finally:
            for _, future in waiting:
                future.cancel()


def _call(function: Callable[[Any], R], item: SharedItem) -> R:
    result = function(receive(item))
    _keep_modules()
    return result


@functools.cache
def _keep_modules() -> None:
    """Takes what is loaded by now, once, from what the collector of garbage goes through."""
    gc.collect()
    gc.freeze()


def _end_with_parent() -> None:
    """Makes this process end when the one that began it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _variables_of_workers() -> Iterator[None]:
    """Gives processes that begin meanwhile one thread each, and memory that they keep."""
    before = {name: os.environ.get(name) for name in _OF_WORKERS}
    os.environ.update(_OF_WORKERS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
