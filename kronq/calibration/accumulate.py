"""Second moments over many batches, in bounded memory, from where the last run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from kronq.calibration.batches import Batch
from kronq.calibration.store import Store
from kronq.errors import KronqError
from kronq.model.matrix import F32

Progress = Callable[[int, int], None]
"""Called with (tokens done, tokens in all)."""

Step = Callable[[Batch], Iterator[tuple[str, F32]]]
"""What one batch adds: name → Σ x·xᵀ over its positions, one at a time."""

MEMORY = 2**31
"""Bytes that the sums of one pass over the data may take."""

SECONDS = 30.0
"""Between two checkpoints: more often than anybody would mind losing."""


def accumulate(
    store: Store,
    widths: Mapping[str, int],
    batches: Sequence[Batch],
    step_of: Callable[[Collection[str]], Step],
    *,
    finish: Callable[[str, F32], F32] = lambda _, moment: moment,
    memory: int = MEMORY,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> dict[str, F32]:
    """Every wanted E[x·xᵀ], from the store where it is there already.

    What is missing is collected in as many passes over the data as keep the sums within
    ``memory``; after each pass, and every ``seconds`` within one, the store has what is done.

    Args:
        store: The collection's folder.
        widths: Name → how long x is.
        batches: Always the same ones for the same store.
        step_of: Gets ready for a pass that collects these names.
        finish: What is made of a name's mean before it is kept.
        memory: In bytes; a single matrix may take more.
        seconds: Between two checkpoints.
        progress: Called with (tokens done, tokens in all).

    Raises:
        KronqError: The model gave values that are not finite.
    """
    ready = {name: store.read(name, width) for name, width in widths.items()}
    missing = {name: width for name, width in widths.items() if ready[name] is None}
    groups = list(_groups(missing, memory))
    tokens = sum(batch.tokens for batch in batches)
    for number, group in enumerate(groups):
        told = None if progress is None else _shifted(progress, tokens, number, len(groups))
        sums = _pass(store, group, batches, step_of(group), seconds, told)
        for name, total in sums.items():
            total /= tokens
            store.write(name, finish(name, total))
        store.clear()
    found = {name: store.read(name, width) for name, width in widths.items()}
    lost = [name for name, moment in found.items() if moment is None]
    if lost:
        raise KronqError("the cache does not keep what is written", path=store.folder)
    return {name: moment for name, moment in found.items() if moment is not None}


def _pass(
    store: Store,
    group: Mapping[str, int],
    batches: Sequence[Batch],
    step: Step,
    seconds: float,
    progress: Progress | None,
) -> dict[str, F32]:
    """Σ x·xᵀ over all batches, from the last checkpoint on.

    Whatever stops it, what is complete is kept: Ctrl-C loses the batch at hand.
    """
    sums, done = store.resume(group)
    tell = progress or (lambda *_: None)
    saved = time.monotonic()
    complete = True
    try:
        tell(sum(b.tokens for b in batches[:done]), 0)
        for batch in batches[done:]:
            for name, gram in step(batch):
                complete = False
                if not np.isfinite(np.trace(gram)):
                    raise KronqError("the model gives values that are not finite", layer=name)
                sums[name] += gram
            done, complete = done + 1, True
            tell(sum(b.tokens for b in batches[:done]), 0)
            if time.monotonic() - saved >= seconds and done < len(batches):
                store.checkpoint(sums, done)
                saved = time.monotonic()
    except BaseException:
        if complete and done:
            store.checkpoint(sums, done)
        raise
    return sums


def _shifted(progress: Progress, tokens: int, number: int, passes: int) -> Progress:
    return lambda done, _: progress(number * tokens + done, passes * tokens)


def _groups(widths: Mapping[str, int], memory: int) -> Iterator[dict[str, int]]:
    """Neighbours together, as many as fit; at least one."""
    group: dict[str, int] = {}
    taken = 0
    for name, width in widths.items():
        size = 4 * width * width
        if group and taken + size > memory:
            yield group
            group, taken = {}, 0
        group[name] = width
        taken += size
    if group:
        yield group
