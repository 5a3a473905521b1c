"""First loads of an adapter: with an empty cache, again, and from the cache.

    python -m benchmarks.loading [BASE] [--processes 5]

Each process opens a session with compiled slots, has it run, and loads the example adapter packed
in native codes and entropy-coded, in random order: once as its first load ever (all that reading
needs is imported then), then many times with a cache that was emptied, then from the cache.
Milliseconds up to the adapter that runs can name, medians over processes of each one's median with
the lowest and highest, by the wall clock and in CPU time of the thread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import kronq
import kronq.compiled
from benchmarks.exporting import BASE
from benchmarks.sizes import ADAPTER
from benchmarks.turns import in_a_process, shuffled

MODULE = "benchmarks.loading"
TIMES = 30


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", nargs="?", default=str(BASE))
    parser.add_argument("--processes", type=int, default=5)
    options = parser.parse_args(arguments or None)
    adapter = kronq.load(ADAPTER)
    with tempfile.TemporaryDirectory(dir=Path(options.base).resolve().parent) as name:
        scratch = Path(name)
        files = {"native": scratch / "native.safetensors", "coded": scratch / "coded.safetensors"}
        kronq.save(kronq.quantize(adapter, bits=4), files["native"])
        kronq.save(kronq.quantize(adapter, kronq.Compact(bpw=1)), files["coded"])
        form = kronq.Slots(compiled=True)
        kronq.export_onnx(adapter, options.base, scratch / "app", form=form, verify=False)
        request = {"app": str(scratch / "app"), "files": {n: str(f) for n, f in files.items()}}
        found = [in_a_process(MODULE, request) for _ in range(options.processes)]
        sizes = {name: file.stat().st_size for name, file in files.items()}
    print(f"Loading, ms, {len(found)} processes: wall clock, and CPU time of the thread")
    for name, size in sizes.items():
        for kind in ("first ever", "first", "cached"):
            wall, cpu = (_told([one[name][kind][i] for one in found]) for i in (0, 1))
            print(f"  {name}, {size / 1e3:,.0f} kB, {kind:<12} {wall:>22} {cpu:>22}")


def child(request: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Returns file → kind of load → wall and CPU time of one process, in milliseconds."""
    with tempfile.TemporaryDirectory() as cache:
        session = kronq.Session(request["app"], device="cpu", threads=1)
        session.logits([1, 2, 3])
        kronq.compiled.library()  # from the user's own cache, or the wheel
        os.environ["KRONQ_CACHE"] = cache
        found: dict[str, dict[str, list[float]]] = {}
        for name in shuffled(request["files"], random.Random()):  # noqa: S311
            file = request["files"][name]
            first = [_load(session, file, cache, empty=True) for _ in range(1 + TIMES)]
            again = [_load(session, file, cache, empty=False) for _ in range(1 + TIMES)]
            found[name] = {
                "first ever": first[0],
                "first": _medians(first[1:]),
                "cached": _medians(again[1:]),
            }
    return found


def _load(session: kronq.Session, file: str, cache: str, *, empty: bool) -> list[float]:
    if empty:
        shutil.rmtree(Path(cache, "adapters"), ignore_errors=True)
    wall, cpu = time.perf_counter(), time.thread_time()
    session.load("timed", file)
    times = [1e3 * (time.perf_counter() - wall), 1e3 * (time.thread_time() - cpu)]
    session.unload("timed")
    return times


def _medians(times: list[list[float]]) -> list[float]:
    return [statistics.median(each) for each in zip(*times, strict=True)]


def _told(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        print(json.dumps(child(json.loads(sys.stdin.read()))))
    else:
        main(*sys.argv[1:])
