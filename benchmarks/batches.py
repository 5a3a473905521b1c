"""Cost of adapters in a batch whose rows each have their own, in the form pool.

    python -m benchmarks.batches [BASE …] [--rows 1 8 32] [--processes 5] [--keep FILE]

A step decodes a token of each row, with 64 tokens in its KV cache. The base alone (its own graph,
twice, in two sessions), the graph with slots and no adapters, and with each kind of adapter, take
turns at every step. All rows have adapters of their own, at random places of a pool of 1,000: the
demo's adapter and a LoRA, with other codes in each. CPU time of one thread, ÷ the base's.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import kronq
from benchmarks.decoding import DEMO, random_lora
from benchmarks.perturbed import lowest_bits
from benchmarks.sizes import ADAPTER
from benchmarks.turns import AGAIN, BASE, in_a_process, kept, print_table, shuffled
from kronq.engine.batch_decoder import BatchDecoder
from kronq.genai.bench.machine import describe_machine
from kronq.model.adapter import Adapter
from kronq.onnx.model_files import find_model
from kronq.onnx.slots.pool_inputs import pool_inputs
from kronq.onnx.slots.record import adapter_record
from kronq.onnx.slots.slot_spec import SlotSpec

PAST, STEPS = 64, 24
EMPTY = "no adapters"


def main(arguments: list[str] | None = None) -> None:
    if sys.argv[1:] == ["--child"] and arguments is None:
        print(json.dumps(time_sides(json.load(sys.stdin))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bases", nargs="*", default=[str(DEMO)])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="a file of JSON lines, one for each process")
    args = parser.parse_args(arguments)
    machine = describe_machine()
    print(f"{machine.cpu}, {machine.cores} cores, onnxruntime {machine.onnxruntime}")
    found = kept(args.keep, _processes(args))
    for base, rows in dict.fromkeys((one["base"], one["rows"]) for one in found):
        print(f"\n{base}, {rows} row{'s' * (rows > 1)}; ÷ the base in ONNX Runtime, CPU time:")
        same = [one["times"] for one in found if (one["base"], one["rows"]) == (base, rows)]
        print_table(same, {"step": "step"})


def _processes(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for base in map(Path, args.bases):
        if not base.is_dir():
            print(f"Batches: no base at {base}; 'make demo' builds one")
            continue
        with tempfile.TemporaryDirectory(dir=base.resolve().parent) as scratch:
            folder, adapter = Path(scratch, "pool"), kronq.load(ADAPTER)
            kronq.export_onnx(adapter, base, folder, form="pool", verify=False)
            pools = _write_pools(adapter, SlotSpec.read(folder), args.adapters, Path(scratch))
            for _ in range(args.processes):
                for rows in args.rows:
                    request = {"base": str(base), "folder": str(folder), "rows": rows}
                    found = in_a_process("benchmarks.batches", request | {"pools": pools})
                    yield {"base": base.name, "rows": rows, "times": found}


def _write_pools(adapter: Adapter, spec: SlotSpec, count: int, scratch: Path) -> dict[str, Any]:
    """Writes a file of records for each kind of adapter; returns file and size of a record."""
    found = {}
    for family, trained in (("Kron r8", adapter), ("LoRA r8", random_lora(adapter, 8))):
        for bits in (4, 8):
            packed = kronq.quantize(trained, kronq.Uniform(bits))
            record, file = adapter_record(packed, spec.layers), scratch / f"{family}-{bits}"
            rng, codes = np.random.default_rng(0), lowest_bits(record)
            with file.open("wb") as stream:
                for tag in range(count):
                    other = record ^ (np.frombuffer(rng.bytes(len(codes)), np.uint8) & codes)
                    other[24:32].view("<u8")[:] = tag
                    stream.write(other.data)
            found[f"{family}, int{bits}"] = [str(file), len(record)]
    return found


def time_sides(request: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns each side's median seconds a step, of this process."""
    rng, rows = random.Random(), request["rows"]  # noqa: S311
    folders = {BASE: request["base"], AGAIN: request["base"], EMPTY: request["folder"]}
    decoders = {
        name: BatchDecoder(find_model(folders[name]), rows, PAST + 1, 1, pool=name == EMPTY)
        for name in shuffled(folders, rng)
    }
    sides = {name: _step(decoders[name], rows, {}) for name in (BASE, AGAIN)}
    empty = pool_inputs(np.zeros(8, np.uint8), [None] * rows)
    sides[EMPTY] = _step(decoders[EMPTY], rows, empty)
    for name, (file, size) in request["pools"].items():
        pool = np.memmap(file, np.uint8, "r")
        tags = rng.sample(range(len(pool) // size), rows)
        given = pool_inputs(pool, [(tag * size, tag) for tag in tags])
        sides[name] = _step(decoders[EMPTY], rows, given)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(STEPS + 2):
        for name in shuffled(sides, rng):
            start = time.process_time()
            sides[name]()
            if turn >= 2:  # the first ones make pages and places known
                times[name].append(time.process_time() - start)
    return {name: {"step": statistics.median(found)} for name, found in times.items()}


def _step(decoder: BatchDecoder, rows: int, given: dict[str, Any]) -> Callable[[], object]:
    tokens, lengths = list(range(100, 100 + rows)), [PAST + 1] * rows
    return lambda: decoder.decode(tokens, lengths, given)


if __name__ == "__main__":
    main()
