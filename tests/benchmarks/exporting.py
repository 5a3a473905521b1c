"""Export of the example adapter into SmolLM2-135M, with and without its checks.

python -m tests.benchmarks.exporting [BASE_FOLDER]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import kronq
from tests.benchmarks.sizes import ADAPTER

BASE = Path(__file__).parents[2] / ".demo" / "base"
RUNS = 3


def main(base: str = str(BASE)) -> None:
    if not Path(base).is_dir():
        print(f"Export: no base at {base}; 'make demo' builds one")
        return
    adapter = kronq.quantize(kronq.load(ADAPTER), 4, method="balanced")
    print(f"Export of the 4-bit adapter, {RUNS} runs:")
    for form in ("branch", "merged"):
        for verify in (True, False):
            times = []
            for _ in range(RUNS):
                with tempfile.TemporaryDirectory(dir=Path(base).parent) as folder:
                    start = time.perf_counter()
                    out = Path(folder, "out")
                    report = kronq.export_onnx(adapter, base, out, form=form, verify=verify)
                    times.append(time.perf_counter() - start)
            checks = "without checks"
            if report.verification is not None:
                checks = (
                    f"with checks: layers differ by {report.verification.layers.relative:.1e}, "
                    f"the whole model by {report.verification.model.relative:.1e}"
                )
            print(f"  {form:<6} {statistics.median(times):.1f} s {checks}")


if __name__ == "__main__":
    main(*sys.argv[1:])
