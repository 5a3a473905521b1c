"""Throughput and latency of a batch whose rows take their adapters from a pool."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from kronq.engine.batch_decoder import BatchDecoder
from kronq.engine.find_adapters import find_adapters
from kronq.engine.pool_points import PoolBenchReport, PoolPoint
from kronq.engine.row_adapters import RowAdapters
from kronq.errors import ArgumentError, StrPath
from kronq.genai.bench.machine import describe_machine
from kronq.genai.bench.timing import Spread
from kronq.io.progress import Progress
from kronq.onnx.model_files import find_model
from kronq.pool.entry import Entry
from kronq.pool.pool import Pool

PAST = 64
"""Tokens of each row in the KV cache; less where the model has no room for them."""
_WARM = 2
"""Turns that do not count: pages and places are not known yet."""


def bench_pool(
    folder: StrPath,
    pool: StrPath,
    *,
    rows: Sequence[int] = (1, 8, 32),
    rounds: int = 20,
    threads: int | None = None,
    other_base: bool = False,
    progress: Progress | None = None,
) -> PoolBenchReport:
    """Times steps of batches, the base alone and every number of adapters in turns.

    Every row takes another adapter at every step, so nothing of an adapter is left in the
    processor's caches from the step before; texts that go on with theirs are no slower.

    Args:
        folder: A model with compiled slots.
        pool: A pool of adapters that fit it.
        rows: Rows of the batches.
        rounds: Turns that count.
        threads: Threads within an operator; None for one a core.
        other_base: Takes adapters that were calibrated or tested with another base, too.
        progress: Called with (turns done, turns in all).

    Raises:
        ArgumentError: The pool is empty, or there are no rows.
        MismatchError: An adapter does not fit the model, or is for another base.
    """
    if not rows or min(rows) < 1 or rounds < 1:
        raise ArgumentError(
            "rows and rounds", found=f"{list(rows)}, {rounds}", expected="1 or more"
        )
    files = find_model(folder)
    with Pool.open(pool) as opened:
        if not len(opened):
            raise ArgumentError("the pool has no adapters", path=pool)
        adapters = find_adapters(files.folder, opened, max(rows), other_base=other_base)
        length = min(PAST + 1, files.model_count("context_length"))
        decoder = BatchDecoder(files, max(rows), length, threads, pool=True)
        turns = _Turns(decoder, adapters, length, list(opened), rounds)
        points = [
            point
            for number, count in enumerate(rows)
            for point in turns.points(count, _part(progress, number, len(rows)))
        ]
        found = len(opened)
    return PoolBenchReport(
        str(folder), str(pool), found, rounds, threads, points, describe_machine()
    )


class _Turns:
    """Steps of one model, each side's after another in random order."""

    def __init__(
        self,
        decoder: BatchDecoder,
        adapters: RowAdapters,
        length: int,
        names: list[str],
        rounds: int,
    ) -> None:
        self._decoder, self._adapters, self._rounds = decoder, adapters, rounds
        self._length = length
        self._random = random.Random(0)  # noqa: S311
        self._names = self._random.sample(names, len(names))

    def points(self, rows: int, progress: Progress | None) -> list[PoolPoint]:
        """Times batches of so many rows."""
        counts = [0, *steps_of_ten(len(self._names))]
        times: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
        for turn in range(self._rounds + _WARM):
            for count in self._random.sample(counts, len(counts)):
                found = self._step(rows, count)
                if turn >= _WARM:
                    times[count].append(found)
            if progress is not None:
                progress(turn + 1, self._rounds + _WARM)
        return [_point(rows, count, times) for count in counts]

    def _step(self, rows: int, count: int) -> tuple[float, float]:
        """Runs a step; returns its elapsed time and its CPU time in seconds."""
        with ExitStack() as held:
            entries = [self._hold(held, name) for name in self._choose(rows, count)]
            given = self._adapters.inputs(entries)
            tokens, lengths = list(range(100, 100 + rows)), [self._length] * rows
            start, begin = time.perf_counter(), time.process_time()
            self._decoder.decode(tokens, lengths, given)
            return time.perf_counter() - start, time.process_time() - begin

    def _hold(self, held: ExitStack, name: str | None) -> Entry | None:
        if name is None:
            return None
        entry: Entry = self._adapters.find(name)
        held.callback(self._adapters.release, entry)
        return entry

    def _choose(self, rows: int, count: int) -> Sequence[str | None]:
        """Returns names at random, all different where there are enough."""
        if not count:
            return [None] * rows
        among = self._names[:count]
        choose: Callable[..., list[str]] = (
            self._random.sample if count >= rows else self._random.choices
        )
        return choose(among, k=rows)


def steps_of_ten(most: int) -> list[int]:
    """Returns 1, 10, 100, … and the number itself."""
    return [*(10**i for i in range(20) if 10**i < most), most]


def _point(rows: int, count: int, times: Mapping[int, list[tuple[float, float]]]) -> PoolPoint:
    elapsed, cpu = zip(*times[count], strict=True)
    step = Spread.of(1e3 * seconds for seconds in elapsed)
    ratios = (mine[1] / base[1] for mine, base in zip(times[count], times[0], strict=True))
    return PoolPoint(
        rows=rows,
        adapters=count,
        step_ms=step,
        cpu_ms=Spread.of(1e3 * seconds for seconds in cpu),
        tokens_per_second=1e3 * rows / step.median,
        ratio=Spread.of(ratios) if count else None,
    )


def _part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Returns a progress of one of several equal parts."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, parts * total)
