"""Second moments over many batches, in bounded memory, resumed where the last run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from kronq.calibration.batches import Batch
from kronq.calibration.moment_store import MomentStore
from kronq.errors import KronqError
from kronq.io.progress import Progress
from kronq.model.matrix import F32

SumOfBatch = Callable[[Batch], Iterator[tuple[str, F32]]]
"""Sums of one batch: yields names with Σ x·xᵀ over its positions, one at a time."""

MEMORY = 2**31
"""Bytes that the sums of one pass over the data may take; a single matrix may take more."""

CHECKPOINT_SECONDS = 30.0


def accumulate(
    store: MomentStore,
    widths: Mapping[str, int],
    batches: Sequence[Batch],
    start_pass: Callable[[Collection[str]], SumOfBatch],
    *,
    finish: Callable[[str, F32], F32] = lambda _, moment: moment,
    memory: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    progress: Progress | None = None,
) -> dict[str, F32]:
    """Returns E[x·xᵀ] of every name, from the store where it has them.

    Missing moments are collected in as many passes over the data as keep the sums within
    ``memory``. The store is written after each pass, and at every checkpoint within one.

    Args:
        store: The collection's folder.
        widths: Name → length of x.
        batches: Batches of the data; always the same ones for the same store.
        start_pass: Prepares a pass that sums these names.
        finish: Makes the kept matrix from a name and its mean.
        memory: Bytes of the sums of one pass; None for ``MEMORY``.
        checkpoint_seconds: Time between two checkpoints.
        progress: Called with (tokens done, tokens in all).

    Raises:
        KronqError: The model gives values that are not finite.
    """
    stored = {name: store.read(name, width) for name, width in widths.items()}
    missing = {name: width for name, width in widths.items() if stored[name] is None}
    groups = list(_group_by_memory(missing, MEMORY if memory is None else memory))
    tokens = sum(batch.tokens for batch in batches)
    for number, group in enumerate(groups):
        shown = None if progress is None else _shift(progress, tokens, number, len(groups))
        sums = _run_pass(store, group, batches, start_pass(group), checkpoint_seconds, shown)
        for name, total in sums.items():
            total /= tokens
            store.write(name, finish(name, total))
        store.clear()
    moments = {name: store.read(name, width) for name, width in widths.items()}
    kept = {name: moment for name, moment in moments.items() if moment is not None}
    if len(kept) < len(moments):
        raise KronqError("the cache does not keep what is written", path=store.folder)
    return kept


def _run_pass(
    store: MomentStore,
    group: Mapping[str, int],
    batches: Sequence[Batch],
    sum_batch: SumOfBatch,
    checkpoint_seconds: float,
    progress: Progress | None,
) -> dict[str, F32]:
    """Returns Σ x·xᵀ over all batches, from the last checkpoint on.

    An interruption, as by Ctrl-C, loses the current batch alone.
    """
    sums, done = store.resume(group)
    show = progress or (lambda *_: None)
    saved = time.monotonic()
    complete = True
    try:
        show(sum(b.tokens for b in batches[:done]), 0)
        for batch in batches[done:]:
            for name, gram in sum_batch(batch):
                complete = False
                if not np.isfinite(np.trace(gram)):
                    raise KronqError(
                        "the model gives values that are not finite", layer=name, code="not-finite"
                    )
                sums[name] += gram
            done, complete = done + 1, True
            show(sum(b.tokens for b in batches[:done]), 0)
            if time.monotonic() - saved >= checkpoint_seconds and done < len(batches):
                store.checkpoint(sums, done)
                saved = time.monotonic()
    except BaseException:
        if complete and done:
            store.checkpoint(sums, done)
        raise
    return sums


def _shift(progress: Progress, tokens: int, number: int, passes: int) -> Progress:
    return lambda done, _: progress(number * tokens + done, passes * tokens)


def _group_by_memory(widths: Mapping[str, int], memory: int) -> Iterator[dict[str, int]]:
    """Groups neighbours whose sums fit into ``memory``; at least one a group."""
    group: dict[str, int] = {}
    nbytes = 0
    for name, width in widths.items():
        size = 4 * width * width
        if group and nbytes + size > memory:
            yield group
            group, nbytes = {}, 0
        group[name] = width
        nbytes += size
    if group:
        yield group
