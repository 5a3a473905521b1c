"""What is measured of batches whose rows take their adapters from a pool."""

from __future__ import annotations

from dataclasses import dataclass

from kronq.genai.bench.machine import Machine
from kronq.genai.bench.timing import Spread


@dataclass(frozen=True)
class PoolPoint:
    """A batch of so many rows, each with an adapter at random among the first so many of a pool.

    Attributes:
        rows: Rows of the batch.
        adapters: Adapters that the rows choose among; 0 for the base alone.
        step_ms: Time of a step, which is a token of every row.
        cpu_ms: CPU time of it, of all threads.
        tokens_per_second: Of all rows together.
        ratio: CPU time ÷ that of the base's step in the same turn; None for the base itself.
    """

    rows: int
    adapters: int
    step_ms: Spread
    cpu_ms: Spread
    tokens_per_second: float
    ratio: Spread | None


@dataclass(frozen=True)
class PoolBenchReport:
    """All points.

    Attributes:
        model: The folder.
        pool: The pool's folder.
        adapters: Adapters in it.
        rounds: Turns that count.
        threads: Threads within an operator; None for one a core.
        points: By rows, then by adapters.
        machine: What it ran on.
    """

    model: str
    pool: str
    adapters: int
    rounds: int
    threads: int | None
    points: list[PoolPoint]
    machine: Machine
