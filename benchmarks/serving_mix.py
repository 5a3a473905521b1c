"""A mix of requests, answered by engines that take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving_files import MIXED, mixed, pool_of
from benchmarks.turns import shuffled
from kronq import Engine
from kronq.engine.job import Job

ROWS, CONTEXT, VOCABULARY = 8, 256, 49152


@dataclass(frozen=True)
class Request:
    """A text to write.

    Attributes:
        prompt: Its tokens.
        length: New tokens.
        adapter: Number of its adapter.
    """

    prompt: tuple[int, ...]
    length: int
    adapter: int


@dataclass
class Spent:
    """Seconds.

    Attributes:
        cpu: Of all threads of the process.
        elapsed: By the clock.
    """

    cpu: float = 0.0
    elapsed: float = 0.0

    def time(self, work: Callable[[], Any]) -> Any:
        """Does something and adds its time."""
        start, begin = time.process_time(), time.perf_counter()
        result = work()
        self.cpu += time.process_time() - start
        self.elapsed += time.perf_counter() - begin
        return result


def random_mix(count: int, rng: random.Random) -> list[Request]:
    """Returns requests of 16 to 64 tokens that ask for 16 to 64, each with an adapter at random."""
    return [
        Request(random_tokens(rng.randint(16, 64), rng), rng.randint(16, 64), adapter)
        for adapter in rng.sample(range(MIXED), min(count, MIXED))
        + [rng.randrange(MIXED) for _ in range(count - MIXED)]
    ]


def random_tokens(count: int, rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randrange(1000, 40000) for _ in range(count))


class Endless:
    """A tokenizer of a model whose texts do not end by themselves."""

    eos_token_ids = ()

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def open_engine(folder: Path, count: int | None) -> Engine:
    """Opens an engine of one thread with a pool of so many adapters, or with none."""
    pool = None if count is None else pool_of(folder, count)
    engine = Engine(folder / "app", pool=pool, rows=ROWS, context=CONTEXT, threads=1)
    engine.tokenizer = Endless(engine.tokenizer)  # type: ignore[assignment]
    return engine


def run_engines(
    engines: Mapping[int, Engine], mix: Sequence[Request], rng: random.Random
) -> dict[int, Spent]:
    """Answers the mix with each engine, a step of each in turns.

    Args:
        engines: Number of adapters in the pool → engine; 0 is the base alone.
        mix: The requests.
        rng: What the order is drawn from.
    """
    spent = {count: Spent() for count in engines}
    jobs: dict[int, list[Job]] = {}
    for count, engine in engines.items():
        jobs[count] = spent[count].time(lambda: _submit(engine, count, mix))  # noqa: B023
    running = set(engines)
    while running:
        for count in shuffled(running, rng):
            if not spent[count].time(engines[count].step):
                running.remove(count)
    for found in jobs.values():
        assert [len(job.generation.tokens) for job in found] == [each.length for each in mix]
    return spent


def _submit(engine: Engine, count: int, mix: Sequence[Request]) -> list[Job]:
    return [
        engine.submit(
            each.prompt,
            adapter=mixed(each.adapter % count) if count else None,
            max_tokens=each.length,
        )
        for each in mix
    ]
