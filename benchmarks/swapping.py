"""Time until another adapter answers.

    python -m benchmarks.swapping [BASE]

Medians with the lowest and the highest, every way of loading by turns in one process, one thread.
A packed file is expanded and written to the cache when it is first loaded, and found there later.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import kronq
from benchmarks.exporting import BASE
from benchmarks.sizes import ADAPTER
from kronq.genai.bench.timed_model import open_timed_model, time_swaps
from kronq.onnx.forms import Slots
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import ExecutionTarget
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter

TIMES = 30


def main(base: str = str(BASE)) -> None:
    if not Path(base).is_dir():
        print(f"Swapping: no base at {base}; 'make demo' builds one")
        return
    adapter = kronq.load(ADAPTER)
    with tempfile.TemporaryDirectory(dir=Path(base).resolve().parent) as name:
        scratch = Path(name)
        os.environ["KRONQ_CACHE"] = str(scratch / "cache")
        native, compact = scratch / "native.safetensors", scratch / "compact.safetensors"
        kronq.save(kronq.quantize(adapter, bits=4), native)
        kronq.save(kronq.quantize(adapter, kronq.Compact(bpw=1)), compact)
        for kernel in (False, True):
            slots = scratch / f"slots-{kernel}"
            kronq.export_onnx(adapter, base, slots, form=Slots(compiled=kernel), verify=False)
            ready = write_onnx_adapter(adapter, slots, scratch / f"{kernel}.onnx_adapter")
            ways = {
                f"packed, {size(native)}, for the first time": (native, False),
                f"packed, entropy-coded, {size(compact)}, for the first time": (compact, False),
                "packed, found in the cache": (native, True),
                f".onnx_adapter, {size(ready)}": (ready, True),
            }
            kind = "compiled slots" if kernel else "slots"
            print(f"Swapping, {kind} on {Path(base).name}, ms, median of {TIMES} (lowest–highest):")
            _time(slots, ways, ready, scratch / "cache")


def _time(slots: Path, ways: dict[str, tuple[Path, bool]], ready: Path, cache: Path) -> None:
    session = kronq.Session(slots, device="cpu", threads=1)
    session.logits([1, 2, 3])
    times = _loads(session, ways, cache)
    for way in ways:
        tell(f"load {way}", times[way])
    tell("activate in onnxruntime", times["activate"])
    swaps = time_swaps(
        open_timed_model(find_model(slots), ExecutionTarget(threads=1)), ready, TIMES
    )
    tell("load .onnx_adapter in onnxruntime-genai", [swap.load for swap in swaps])
    tell("activate in onnxruntime-genai", [swap.activate for swap in swaps])


def _loads(
    session: kronq.Session, ways: dict[str, tuple[Path, bool]], cache: Path
) -> dict[str, list[float]]:
    rng = random.Random(0)  # noqa: S311
    times: dict[str, list[float]] = {way: [] for way in [*ways, "activate"]}
    for _ in range(TIMES):
        for way in rng.sample(list(ways), len(ways)):
            file, known = ways[way]
            if known:
                session.load("known", file)
                session.unload("known")
            else:
                shutil.rmtree(cache, ignore_errors=True)
            times[way].append(timed(lambda file=file: session.load("timed", file)))
            times["activate"].append(timed(lambda: session.adapters.run_options("timed")))
            session.unload("timed")
    return times


def timed(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def size(file: Path) -> str:
    return f"{file.stat().st_size / 1e3:,.0f} kB"


def tell(what: str, seconds: list[float]) -> None:
    low, middle, high = (1e3 * f(seconds) for f in (min, statistics.median, max))
    print(f"  {what:<58} {middle:>7.3f} ({low:.3f}–{high:.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
