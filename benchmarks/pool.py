"""A pool of thousands of adapters: what it takes in memory, and how long its parts take.

    python -m benchmarks.pool [ADAPTERS] [FOLDER] [PLOT.svg]

Makes a pool of 10,000 truly different 4-bit adapters of SmolLM2-135M in a temporary folder, in
FOLDER if one is given (11 GB while it is compacted). With a PLOT, batches of 1, 8 and 32 rows with
adapters of the pool are timed on the demo's base, too, and drawn. CPU time, user and system, of one
thread, unless it says elapsed; medians with the 99th of 100 where there are many. Each part runs in
a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import kronq
from benchmarks.decoding import DEMO
from benchmarks.perturbed import fill_pool
from benchmarks.sizes import ADAPTER
from kronq.pool.check import check
from kronq.pool.compaction import compact
from kronq.pool.importing import import_adapters

TIMES = 500


def main(count: int = 10_000, where: str | None = None, plot: str | None = None) -> None:
    need = count * 600_000 * 2
    if shutil.disk_usage(where or tempfile.gettempdir()).free < need:
        print(f"Pool: less than {need:,} bytes are free")
        return
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        adapter = kronq.load(ADAPTER)
        files = {
            "native": kronq.save(kronq.quantize(adapter, bits=4), folder / "native.safetensors"),
            "compact": kronq.save(
                kronq.quantize(adapter, kronq.Compact(bpw=1)), folder / "compact.safetensors"
            ),
        }
        pool = str(folder / "pool")
        start = time.perf_counter()
        fill_pool(pool, kronq.load(files["native"]), count)
        size = (folder / "pool" / "records-1").stat().st_size
        index = (folder / "pool" / "index.sqlite").stat().st_size
        print(
            f"Pool of {count:,} adapters, {size:,} bytes and {index:,} of index; "
            f"filled in {time.perf_counter() - start:.0f} s elapsed"
        )
        for part, given in (
            (memory, ()),
            (first_use, (False,)),
            (first_use, (True,)),
            (finding, ()),
            (adding, (files,)),
            (listing, ()),
            (importing, (files, folder / "import")),
            *([(batches, (files["native"], folder / "app", plot))] if plot else []),
            (whole, ()),
        ):
            process = multiprocessing.get_context("spawn").Process(target=part, args=(pool, *given))
            process.start()
            process.join()
            assert process.exitcode == 0


def timed(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    work()
    return clock() - start


def told(seconds: Sequence[float], unit: float = 1e3) -> str:
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return f"{unit * statistics.median(ordered):.3g} (99 %: {unit * high:.3g})"


def anonymous() -> int:
    """Bytes of this process that are of no file (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def memory(path: str) -> None:
    kronq.Pool.open(path).close()  # what is imported is not the pool's
    before = anonymous()
    seconds = time.process_time()
    pool = kronq.Pool.open(path)
    seconds = time.process_time() - seconds
    opened = anonymous() - before
    for name in pool:
        with pool.use(name):
            pass
    print(
        f"opening: {1e3 * seconds:.0f} ms; anonymous memory {opened / 1e6:.1f} MB, after each "
        f"adapter was used {(anonymous() - before) / 1e6:.1f} MB"
    )


def first_use(path: str, cold: bool) -> None:
    pool = kronq.Pool.open(path)
    names = np.random.default_rng(1).choice(list(pool), min(TIMES, len(pool)), replace=False)
    handle = os.open(Path(path, "records-1"), os.O_RDONLY)
    entries = [pool.find(str(name)) for name in names]
    for entry in entries:
        if cold:
            os.posix_fadvise(handle, entry.offset, entry.size, os.POSIX_FADV_DONTNEED)
        else:
            os.pread(handle, entry.size, entry.offset)
    elapsed, used, again = [], [], []
    for entry in entries:
        start, begin = time.perf_counter(), time.process_time()
        pool.pin(entry.name)
        elapsed.append(time.perf_counter() - start)
        used.append(time.process_time() - begin)
        again.append(timed(lambda: pool.pin(entry.name), time.perf_counter))  # noqa: B023
    where = "disk" if cold else "the page cache"
    print(
        f"first use, from {where}: {told(elapsed)} ms elapsed, {told(used)} ms of CPU; "
        f"again {told(again, 1e6)} µs"
    )


def finding(path: str) -> None:
    pool = kronq.Pool.open(path)
    names = list(pool)
    find = timed(lambda: [pool.find(name) for name in names]) / len(names)
    refresh = timed(lambda: [pool.refresh() for _ in range(TIMES)]) / TIMES
    print(f"find: {1e6 * find:.2f} µs; refresh where nothing has changed: {1e6 * refresh:.1f} µs")


def adding(path: str, files: dict[str, Path]) -> None:
    pool, other = kronq.Pool.open(path), kronq.Pool.open(path)
    pool.add("first", files["native"])
    for kind, file in files.items():
        elapsed, used, seen = [], [], []
        for number in range(30):
            start, begin = time.perf_counter(), time.process_time()
            pool.add(f"{kind}-{number}", file, force=True)
            elapsed.append(time.perf_counter() - start)
            used.append(time.process_time() - begin)
            seen.append(timed(other.refresh))
        print(
            f"adding one, {kind}: {told(elapsed)} ms elapsed, {told(used)} ms of CPU; "
            f"refresh of another program {told(seen)} ms"
        )


def listing(path: str) -> None:
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "kronq", "pool", "ls", path, *options]
        start, begin = time.perf_counter(), os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        end = os.times()
        used = end.children_user + end.children_system - begin.children_user - begin.children_system
        elapsed = time.perf_counter() - start
        print(f"{' '.join(['ls', *options])}: {used:.2f} s of CPU, {elapsed:.2f} s elapsed")


def importing(_: str, files: dict[str, Path], folder: Path) -> None:
    for kind, file in files.items():
        sources = {f"{kind}-{number}": str(file) for number in range(100)}
        with contextlib.redirect_stdout(io.StringIO()):
            used = timed(lambda: list(import_adapters(folder, sources)))  # noqa: B023
        print(f"import, {kind}: {1e3 * used / len(sources):.1f} ms of CPU each")


def batches(path: str, adapter: Path, app: Path, plot: str) -> None:
    if not DEMO.is_dir():
        print(f"Batches: no base at {DEMO}; 'make demo' builds one")
        return
    kronq.export_onnx(kronq.load(adapter), DEMO, app, form="pool", verify=False)
    options = ["--pool", path, "--threads", "1", "--rounds", "7", "--plot", plot, "--force"]
    command = [sys.executable, "-m", "kronq", "bench", str(app), *options]
    subprocess.run(command, check=True)


def whole(path: str) -> None:
    print(f"check: {timed(lambda: check(path)):.1f} s of CPU")
    print(f"compact: {timed(lambda: compact(path)):.1f} s of CPU")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:4])
