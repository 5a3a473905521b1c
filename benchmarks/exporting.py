"""Export of the example adapter into SmolLM2-135M in every form: time, and memory.

    python -m benchmarks.exporting [BASE …]

Each export runs in a process of its own. Memory is what that process has in RAM over what it had
after the imports: all of it (``VmHWM``; mapped files count as far as they were read, though the
system may take those pages back at any time), and the part that no file is behind (``RssAnon``,
every 2 ms).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import kronq
from benchmarks.sizes import ADAPTER
from benchmarks.turns import in_a_process
from kronq.onnx.base_folder import find_base, load_base
from kronq.onnx.external_data import external_files

MODULE = "benchmarks.exporting"
BASE = Path(__file__).parents[1] / ".demo" / "base"
RUNS = 3
FORMS = {
    "branch": kronq.Branch(),
    "merged": kronq.Merged(),
    "slots": kronq.Slots(),
    "slots, kernel": kronq.Slots(compiled=True),
}


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bases", nargs="*", type=Path, default=[BASE])
    for base in parser.parse_args(arguments).bases:
        if not base.is_dir():
            print(f"Export: no base at {base}; 'make demo' builds one")
            continue
        path = find_base(base)
        files = (path, *(path.parent / name for name in external_files(load_base(path))))
        size = sum(file.stat().st_size for file in files)
        print(f"Export into {base.name}, {size:,} bytes; median of {RUNS} processes:")
        print(
            f"  {'':<24} {'seconds':>22} {'peak ÷ base':>12} {'anonymous ÷ base':>17}  differs by"
        )
        for verify in (True, False):
            for form in FORMS:
                _print(form, verify, base, size)


def _print(form: str, verify: bool, base: Path, size: int) -> None:
    request = {"form": form, "verify": verify, "base": str(base)}
    found = [in_a_process(MODULE, request) for _ in range(RUNS)]
    if "refused" in found[0]:
        print(f"  {form}: {found[0]['refused']}")
        return
    seconds = [one["seconds"] for one in found]
    told = f"{statistics.median(seconds):.1f} ({min(seconds):.1f}–{max(seconds):.1f})"
    peak, anonymous = (max(one[key] for one in found) / size for key in ("peak", "anonymous"))
    name = form + ("" if verify else ", not checked")
    apart = found[0]["apart"]
    print(f"  {name:<24} {told:>22} {peak:>12.2f} {anonymous:>17.2f}  {apart}", flush=True)


def child(request: dict[str, Any]) -> dict[str, Any]:
    """One export, watched."""
    import onnxruntime  # noqa: F401 - its memory is Python's, not the export's

    adapter = kronq.quantize(kronq.load(ADAPTER), bits=4)
    base = Path(request["base"])
    with tempfile.TemporaryDirectory(dir=base.resolve().parent) as folder, Watch() as watch:
        start = time.perf_counter()
        try:
            form, out = FORMS[request["form"]], Path(folder, "out")
            report = kronq.export_onnx(adapter, base, out, form, verify=request["verify"])
        except kronq.KronqError as error:
            return {"refused": str(error)}
        seconds = time.perf_counter() - start
    apart = ""
    if report.verification is not None:
        whole = report.verification.model
        apart = f"layers {report.verification.layers.relative:.1e}, whole model "
        apart += f"{whole.relative:.1e}" if whole else "not compared"
    return {"seconds": seconds, "apart": apart, **watch.found}


class Watch(threading.Thread):
    """Bytes over those at the start: the most in all, and the most that no file is behind."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.found = {"peak": 0, "anonymous": 0}
        self._done = threading.Event()

    def __enter__(self) -> Watch:
        self._before = memory()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while True:
            now = memory()
            found = {"peak": now["VmHWM"] - self._before["VmRSS"]}
            found["anonymous"] = now["RssAnon"] - self._before["RssAnon"]
            self.found = {key: max(found[key], self.found[key]) for key in found}
            if self._done.wait(0.002):
                return


def memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    parts = (line.split() for line in lines)
    return {part[0][:-1]: int(part[1]) * 1024 for part in parts if part[-1] == "kB"}


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        print(json.dumps(child(json.load(sys.stdin))))
    else:
        main(*sys.argv[1:])
