"""Quantize and exact report of a Mistral-7B-shaped adapter, and the same by the dense route.

Each run is a process of its own, so that its peak memory is its own; the two routes alternate.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import kronq
from benchmarks.shapes import mistral_7b
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.matrix import F32
from kronq.quantization.config_names import config_for

RUNS = 5
DENSE_BLOCKS = 2


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder, "whole.safetensors"), Path(folder, "part.safetensors")
        kronq.save(mistral_7b(), whole)
        kronq.save(mistral_7b(blocks=DENSE_BLOCKS), part)
        full = [_run("factors", whole) for _ in range(RUNS)]
        others = [(_run("native", whole), _run("compact", whole)) for _ in range(3)]
        pairs = [(_run("factors", part), _run("dense", part)) for _ in range(3)]
    seconds = [run["seconds"] for run in full]
    print(
        f"Mistral-7B shape, {full[0]['layers']} layers, {full[0]['parameters']:,} parameters, "
        f"4 bit, balanced, quantize + exact report:\n"
        f"  {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, "
        f"{RUNS} runs), peak memory {max(run['peak_mb'] for run in full):.0f} MB over the imports"
    )
    for name, runs in zip(
        ("native 4 bit", "compact 2 bit"), zip(*others, strict=True), strict=True
    ):
        made, decoded = ([run[key] for run in runs] for key in ("seconds", "decoding"))
        print(
            f"  {name}: {statistics.median(made):.1f} s ({min(made):.1f} to {max(made):.1f}, "
            f"3 runs), reading all its numbers {statistics.median(decoded):.2f} s"
        )
    ratios = [dense["seconds"] / ours["seconds"] for ours, dense in pairs]
    print(
        f"  the dense route (ΔW built, error from it) on {DENSE_BLOCKS} of 32 blocks, alternating: "
        f"{statistics.median(ratios):.0f} times as long ({min(ratios):.0f} to {max(ratios):.0f}), "
        f"{max(d['peak_mb'] for _, d in pairs):.0f} MB against "
        f"{max(o['peak_mb'] for o, _ in pairs):.0f} MB; relative errors differ by "
        f"{max(abs(o['error'] / d['error'] - 1) for o, d in pairs):.1e}"
    )


def _run(route: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.quantizing", route, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _one(route: str, path: str) -> None:
    kronq.quantize, kronq.measure, kronq.load  # noqa: B018 - imported before the baseline is read
    before = _peak_mb()
    start = time.perf_counter()
    adapter = kronq.load(path)
    if route in ("native", "compact"):
        print(json.dumps(_made(adapter, route, start)))
        return
    quantized = kronq.quantize(adapter, kronq.Uniform())
    if route == "dense":
        error = _dense_error(adapter, quantized)
    else:
        error = kronq.measure(adapter, quantized).total.relative_error
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "peak_mb": _peak_mb() - before,
                "error": error,
                "layers": len(adapter),
                "parameters": adapter.parameters,
            }
        )
    )


def _made(adapter: Adapter, route: str, start: float) -> dict[str, float]:
    """Quantizing and saving, and then opening the file and reading all its numbers."""
    with tempfile.TemporaryDirectory() as folder:
        bits = 4 if route == "native" else 2
        quantized = kronq.quantize(adapter, config_for(route, bits))
        path = kronq.save(quantized, Path(folder, "a.safetensors"))
        made = time.perf_counter()
        for delta in kronq.load(path).values():
            for matrix in delta.matrices:
                matrix.float32()
        return {"seconds": made - start, "decoding": time.perf_counter() - made}


def _dense_error(adapter: Adapter, quantized: Adapter) -> float:
    error = reference = 0.0
    for name in adapter:
        dense = _dense(adapter[name])
        error += float(np.linalg.norm(dense - _dense(quantized[name]))) ** 2
        reference += float(np.linalg.norm(dense)) ** 2
    return float(np.sqrt(error / reference))


def _dense(delta: Delta) -> F32:
    """ΔW in float32 throughout, as a program that builds it would."""
    left, right = delta.b.float32()
    b = left if right is None else left @ right
    return np.kron(delta.a.left.float32() * np.float32(delta.scale), b)


def _peak_mb() -> float:
    """The most memory this process had at once; getrusage would count the parent's before exec."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _one(*sys.argv[1:])
    else:
        main()
