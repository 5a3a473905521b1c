"""CPU time beside another busy process: BLAS threads that wait for each other burn it by spinning.

    python -m benchmarks.busy

``kronq quantize`` of a Mistral-7B-shaped Kron-LoRA with its report, at default settings and with
OPENBLAS_NUM_THREADS=1, alternating, while a second process keeps one core busy. CPU time is that of
the command, user and system.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import kronq
from benchmarks.shapes import mistral_7b

RUNS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = kronq.save(mistral_7b(), Path(folder, "adapter.safetensors"))
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            pairs = [
                (_cpu_seconds(path), _cpu_seconds(path, OPENBLAS_NUM_THREADS="1"))
                for _ in range(RUNS)
            ]
        finally:
            busy.kill()
            busy.wait()
    default, one = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratios = [first / second for first, second in pairs]
    print(
        f"Mistral-7B shape, quantize and report beside a busy process, CPU time: {default:.1f} s, "
        f"one BLAS thread {one:.1f} s, {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) of it"
    )


def _cpu_seconds(path: Path, **environment: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "kronq", "quantize", str(path), "--dry-run", "--json"]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
