"""``python -m benchmarks.adding APP ADAPTER``: steps of an engine while adapters are added.

Steps with and without take turns of 40. A step is one run of a full batch. Its time is its CPU time
and what held it up: the time that it waited for Python's lock or the disk, which is all that adding
could do to it, and not for a processor that other programs had. A step that never gave its
processor away was not held up. Linux alone tells these, and on a busy machine less of the waits for
a processor than there were. A thread adds the file under a new name ten times a second, by the
clock. Python is set up as in ``kronq serve``.
"""

from __future__ import annotations

import argparse
import sys
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
    """Returns times in milliseconds of steps, of what held them up, and of adding one."""
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
    named = {
        "steps alone": [step for step, _ in alone],
        "steps while adding": [step for step, _ in beside],
        "held up alone": [held for _, held in alone],
        "held up while adding": [held for _, held in beside],
        "adding one": adds,
    }
    return {name: [1e3 * each for each in times] for name, times in named.items()}


def _steps(engine: Engine) -> list[tuple[float, float]]:
    """Times ``STEPS`` steps of a full batch: seconds of each, and what it was held up of them."""
    jobs = [
        engine.submit("Bees", adapter="first", max_tokens=STEPS + 2 * ROWS) for _ in range(ROWS)
    ]
    for _ in range(ROWS + 1):
        engine.step()
    times = []
    for _ in range(STEPS):
        begin = _moment()
        engine.step()
        cpu, clock, blocked = (b - a for a, b in zip(begin, _moment(), strict=True))
        held = max(0.0, clock - cpu) if blocked else 0.0
        times.append((cpu + held, held))
    for job in jobs:
        job.cancel()
    engine.step()
    return times


def _moment() -> tuple[float, float, int]:
    """Returns this thread's CPU time, the clock without waits for a processor, and other waits."""
    clock = time.perf_counter()
    assert sys.platform == "linux", "what a thread waits for is read from /proc"
    from resource import RUSAGE_THREAD, getrusage

    told = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
    waited = int(told.split()[1]) / 1e9
    return time.thread_time(), clock - waited, getrusage(RUSAGE_THREAD).ru_nvcsw


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
        ratio = "" if name.startswith("held") else f" ({most / middle:.2f})"
        print(f"{name}: median {middle:.1f} ms, longest {most:.1f}{ratio}")


if __name__ == "__main__":
    main()
