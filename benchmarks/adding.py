"""``python -m benchmarks.adding APP ADAPTER``: steps of an engine while adapters are added.

Steps with and without take turns of 40. A step is one run of a full batch. Its time is that of the
clock without what it waited for a processor, which other programs had (Linux tells it; elsewhere an
idle machine is needed). A thread adds the file under a new name ten times a second, by the clock.
Python is set up as in ``kronq serve``.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from kronq import Engine, Pool
from kronq.pool.folder import make_pool
from kronq.serve.stepping import keep_steps_even

TURNS, STEPS, ROWS = 6, 40, 8


def measure(app: Path, source: Path) -> dict[str, list[float]]:
    """Returns times in milliseconds: of steps alone, of steps while adding, and of adding one."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "pool")
        make_pool(folder)
        pool = Pool.open(folder)
        pool.add("first", source)
        engine = Engine(app, pool=pool, rows=ROWS, threads=1)
        keep_steps_even()
        alone, beside, adds = [], [], []
        for _ in range(TURNS):
            alone += _steps(engine)
            stop = threading.Event()
            thread = threading.Thread(target=_add, args=(pool, source, stop, adds))
            thread.start()
            beside += _steps(engine)
            stop.set()
            thread.join()
    named = {"steps alone": alone, "steps while adding": beside, "adding one": adds}
    return {name: [1e3 * each for each in times] for name, times in named.items()}


def _steps(engine: Engine) -> list[float]:
    """Returns the times of ``STEPS`` steps of a full batch, in seconds."""
    jobs = [
        engine.submit("Bees", adapter="first", max_tokens=STEPS + 2 * ROWS) for _ in range(ROWS)
    ]
    for _ in range(ROWS + 1):
        engine.step()
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter() - _waited()
        engine.step()
        times.append(time.perf_counter() - _waited() - begin)
    for job in jobs:
        job.cancel()
    engine.step()
    return times


def _waited() -> float:
    """Seconds that this thread was ready to run and had no processor."""
    try:
        told = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
    except OSError:
        return 0.0
    return int(told.split()[1]) / 1e9


def _add(pool: Pool, source: Path, stop: threading.Event, times: list[float]) -> None:
    while not stop.wait(0.1):
        begin = time.perf_counter()
        pool.add(f"more-{len(times)}", source)
        times.append(time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("app", type=Path, help="a model of the form pool or slots")
    parser.add_argument("adapter", type=Path, help="an adapter for it, quantized natively")
    args = parser.parse_args()
    for name, times in measure(args.app, args.adapter).items():
        middle, most = np.median(times), max(times)
        print(f"{name}: median {middle:.1f} ms, longest {most:.1f} ({most / middle:.2f})")


if __name__ == "__main__":
    main()
