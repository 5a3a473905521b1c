"""Large adapters: time and memory of ``kronq quantize`` with its report, and of ``kronq inspect``.

    python -m benchmarks.large [METHOD …]

A Flux LoKr of whole factors (185 million parameters, 370 MB) and a rank-128 LoRA (218 million, 436
MB), at 4 bits; native where no method is given. CPU time counts all threads. Peak memory is the
process's, memory-mapped parts of the file included.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kronq
from benchmarks.shapes import flux_lokr, flux_lora

_CHILD = """
import json, resource, sys
from pathlib import Path
from kronq.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
used = resource.getrusage(resource.RUSAGE_SELF)
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps([used.ru_utime + used.ru_stime, peak / 1024]), file=sys.stderr)
"""


def main(*methods: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("LoKr", flux_lokr), ("LoRA", flux_lora)):
            path = kronq.save(make(), Path(folder, f"{name}.safetensors"))
            print(f"{name}, {path.stat().st_size:,} bytes")
            print(f"  inspect: {run_verb('inspect', path)}")
            for method in methods or ("native",):
                size = ["--bpw", "4"] if method == "compact" else ["--bits", "4"]
                out = Path(folder, "out.safetensors")
                done = run_verb("quantize", path, "-o", out, "--force", "--method", method, *size)
                print(f"  {method}: {done}, {out.stat().st_size:,} bytes", flush=True)
            path.unlink()


def run_verb(*arguments: object) -> str:
    """Runs a verb in a process of its own; returns its times and its peak of memory."""
    start = time.perf_counter()
    command = [sys.executable, "-c", _CHILD, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall = time.perf_counter() - start
    cpu, peak = done.stderr.splitlines()[-1].strip("[]").split(",")
    return f"{wall:.1f} s, CPU {float(cpu):.1f} s, peak memory {float(peak):.0f} MB"


if __name__ == "__main__":
    main(*sys.argv[1:])
