"""Whole-process times of the commands that people run all day, and what an import brings in."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kronq

ADAPTER = Path(__file__).parents[1] / "examples" / "arc-easy-lokr-r8"
RUNS = 9


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "adapter.safetensors")
        kronq.save(kronq.quantize(kronq.load(ADAPTER), bits=4), packed)
        commands = {
            "python -c pass": ["-c", "pass"],
            "kronq --help": ["-m", "kronq", "--help"],
            "kronq inspect PACKED": ["-m", "kronq", "inspect", str(packed)],
            "kronq quantize ADAPTER": ["-m", "kronq", "quantize", str(ADAPTER), "--dry-run"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, arguments in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
                times[name].append(time.perf_counter() - start)
    print(f"Whole processes, median of {RUNS} alternating runs:")
    for name, found in times.items():
        print(f"  {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})  {name}")


if __name__ == "__main__":
    main()
