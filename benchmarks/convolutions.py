"""A convolution with its adapter as a branch, beside the convolution alone.

    python -m benchmarks.convolutions

CPU time of one thread, the sides taking turns run by run, in several processes one after the other.
The convolutions are those of Stable Diffusion 1.5 for a picture of 512×512 with guidance, a batch
of 2: 3×3, A 8×8, rank 16.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import kronq
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.onnx.providers import ExecutionTarget
from kronq.onnx.sessions import open_session
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec

SIZES = ((320, 64), (640, 32), (1280, 16))
"""Channels, and pixels on a side."""
RANK, A, BATCH, K = 16, 8, 2, 9
PROCESSES, ROUNDS = 5, 15
CHILD = "--child"
ONE_THREAD = ExecutionTarget(threads=1)

Ratios = dict[str, float]
Side = tuple[ort.InferenceSession, dict[str, np.ndarray]]
"""A session, and what it is given."""


def write_base(file: Path, channels: int, pixels: int) -> Path:
    """Writes a model of one convolution."""
    draws = np.random.default_rng(0)
    weight = draws.normal(size=(channels, channels, 3, 3)).astype(np.float32)
    shape = [BATCH, channels, pixels, pixels]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    inputs = ["x", "conv.weight"]
    node = helper.make_node("Conv", inputs, ["y"], name="/conv/Conv", pads=[1] * 4)
    tensors = [numpy_helper.from_array(weight, "conv.weight")]
    graph = helper.make_graph([node], "one", [x], [y], tensors)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), file)
    return file


def adapters(channels: int) -> dict[str, kronq.Adapter]:
    """A LoKr and a LoRA of rank 16."""
    draws = np.random.default_rng(1)

    def matrix(rows: int, cols: int) -> Float:
        return Float(draws.normal(size=(rows, cols)).astype(np.float32))

    b = channels // A
    kron = Product(matrix(b, RANK), matrix(RANK, b * K))
    lora = Product(matrix(channels, RANK), matrix(RANK, channels * K))
    return {
        "LoKr": kronq.Adapter({"conv": Delta.uncropped(Product(matrix(A, A)), kron, 1.0, (3, 3))}),
        "LoRA": kronq.Adapter({"conv": Delta.uncropped(ONE, lora, 1.0, (3, 3))}),
    }


def measure(channels: int, pixels: int, seed: int) -> Ratios:
    """Returns side → its median time ÷ the convolution's, of this process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = write_base(folder / "base.onnx", channels, pixels)
        shape = (BATCH, channels, pixels, pixels)
        x = {"x": np.random.default_rng(2).normal(size=shape).astype(np.float32)}
        sides: dict[str, Side] = {"base": (open_session(base, ONE_THREAD), x)}
        for kind, adapter in adapters(channels).items():
            for form in ("branch", "slots"):
                out = folder / f"{kind}-{form}"
                kronq.export_onnx(adapter, base, out, form, verify=False)
                more = slot_inputs(adapter, SlotSpec.read(out)) if form == "slots" else {}
                session = open_session(out / "model.onnx", ONE_THREAD)
                sides[f"{form}, {kind}"] = session, {**x, **more}
                if form == "slots" and kind == "LoKr":
                    sides["slots, empty"] = session, x
        return _take_turns(sides, random.Random(seed))  # noqa: S311


def _take_turns(sides: dict[str, Side], rng: random.Random) -> Ratios:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS + 1):
        for name in rng.sample([*sides], len(sides)):
            session, feeds = sides[name]
            start = time.thread_time()
            session.run(None, feeds)
            times[name].append(time.thread_time() - start)
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    return {name: medians[name] / medians["base"] for name in sides}


def main() -> None:
    print("a convolution with its adapter ÷ alone, median (lowest, highest process)")
    for channels, pixels in SIZES:
        found: list[Ratios] = []
        for seed in range(PROCESSES):
            request = [str(each) for each in (channels, pixels, seed)]
            command = [sys.executable, "-m", "benchmarks.convolutions", CHILD, *request]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout))
        print(f"{channels} channels, {pixels}×{pixels}")
        for name in found[0]:
            ratios = sorted(each[name] for each in found)
            middle = statistics.median(ratios)
            print(f"  {name:<16} {middle:.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(measure(*map(int, sys.argv[2:]))))
    else:
        main()
