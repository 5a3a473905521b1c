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

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that NumPy's BLAS and kronq's own threads are limited by, read when they are loaded."""
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
        _one_thread(),
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
def _one_thread() -> Iterator[None]:
    """Gives processes that begin meanwhile one thread each."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
