"""What the operators of open slots cost a prompt at least: their factors as constants of the graph.

    python -m benchmarks.floor [BASE] [--processes 5] [--tokens 128]

Every process opens, in random order, the base twice, its slots, and the same graph whose factors
are constants and no inputs any more; CPU time of one thread, by turns. Slots without an adapter
have all operators and none of the multiplications.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

import kronq
from benchmarks.exporting import BASE
from benchmarks.sizes import ADAPTER
from benchmarks.turns import AGAIN, in_a_process, shuffled
from benchmarks.turns import BASE as FIRST
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec

MODULE = "benchmarks.floor"
EMPTY, SLOTS, CONSTANTS = "slots, empty", "slots, Kron", "factors as constants"
ROUNDS = 9


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", nargs="?", default=str(BASE))
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args(arguments or None)
    with tempfile.TemporaryDirectory(dir=Path(options.base).resolve().parent) as scratch:
        slots, constants = Path(scratch, "slots"), Path(scratch, "constants")
        kronq.export_onnx(
            kronq.load(ADAPTER), options.base, slots, form=kronq.Slots(compiled=False), verify=False
        )
        make_constant(slots, constants)
        folders = {FIRST: options.base, AGAIN: options.base, EMPTY: str(slots)}
        folders |= {SLOTS: str(slots), CONSTANTS: str(constants)}
        request = {"folders": folders, "adapter": str(ADAPTER), "tokens": options.tokens}
        found = [in_a_process(MODULE, request) for _ in range(options.processes)]
    print(f"A prompt of {options.tokens} tokens ÷ the base's, {Path(options.base).name}, CPU time")
    for name in folders:
        ratios = [one[name] / statistics.mean((one[FIRST], one[AGAIN])) for one in found]
        low, middle, high = (f(ratios) for f in (min, statistics.median, max))
        print(f"  {name:<22} {middle:.3f} ({low:.3f}–{high:.3f})")


def make_constant(slots: Path, out: Path) -> None:
    """Copies a folder with slots, the example's factors in place of the inputs' defaults."""
    out.mkdir()
    for file in slots.iterdir():
        if file.name not in ("model.onnx", "kronq_slots.json"):
            os.link(file, out / file.name)
    model = ir.load(slots / "model.onnx")
    values = slot_inputs(kronq.load(ADAPTER), SlotSpec.read(slots))
    for name, array in values.items():
        model.graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(array))
    kept = [value for value in model.graph.inputs if value.name not in values]
    model.graph.inputs[:] = kept
    ir.save(model, out / "model.onnx")


def child(request: dict[str, object]) -> dict[str, float]:
    """Returns each side's median time of a prompt in a process, in seconds of CPU time."""
    rng = random.Random()  # noqa: S311
    folders: dict[str, str] = request["folders"]  # type: ignore[assignment]
    prompt = [*range(10, 10 + int(str(request["tokens"])))]
    sides: dict[str, Callable[[], object]] = {}
    for name in shuffled(folders, rng):
        session = kronq.Session(folders[name], device="cpu", threads=1)
        adapter = None
        if name == SLOTS:
            session.load("kron", str(request["adapter"]))
            adapter = "kron"
        sides[name] = lambda session=session, adapter=adapter: session.logits(
            prompt, adapter=adapter
        )
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + ROUNDS):
        for name in shuffled(sides, rng):
            start = time.process_time()
            sides[name]()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        import json

        print(json.dumps(child(json.loads(sys.stdin.read()))))
    else:
        main(*sys.argv[1:])
