"""``python -m benchmarks.adding APP ADAPTER``: steps of an engine while a thread adds adapters.

Steps with and without take turns of 40. A step is one run of a full batch; its time is that of the
clock, so an idle machine is needed.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from kronq import Engine, Pool, load
from kronq.pool.folder import make_pool

TURNS, STEPS, ROWS = 6, 40, 8


def measure(app: Path, source: Path) -> None:
    adapter = load(source)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "pool")
        make_pool(folder)
        pool = Pool.open(folder)
        pool.add("first", adapter)
        engine = Engine(app, pool=pool, rows=ROWS, threads=1)
        alone, beside, adds = [], [], []
        for _ in range(TURNS):
            alone += _steps(engine)
            stop = threading.Event()
            thread = threading.Thread(target=_add, args=(pool, adapter, stop, adds))
            thread.start()
            beside += _steps(engine)
            stop.set()
            thread.join()
    for name, times in (("alone", alone), ("while adding", beside), ("adding one", adds)):
        times = 1e3 * np.array(times)
        middle, most = np.median(times), times.max()
        print(f"{name}: median {middle:.1f} ms, longest {most:.1f} ({most / middle:.2f})")


def _steps(engine: Engine) -> list[float]:
    """Returns the times of ``STEPS`` steps of a full batch, in seconds."""
    jobs = [
        engine.submit("Bees", adapter="first", max_tokens=STEPS + 2 * ROWS) for _ in range(ROWS)
    ]
    for _ in range(ROWS + 1):
        engine.step()
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - begin)
    for job in jobs:
        job.cancel()
    engine.step()
    return times


def _add(pool: Pool, adapter: object, stop: threading.Event, times: list[float]) -> None:
    while not stop.wait(0.1):
        begin = time.perf_counter()
        pool.add(f"more-{len(times)}", adapter)
        times.append(time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("app", type=Path, help="a model of the form pool or slots")
    parser.add_argument("adapter", type=Path, help="an adapter for it, quantized natively")
    args = parser.parse_args()
    measure(args.app, args.adapter)


if __name__ == "__main__":
    main()
