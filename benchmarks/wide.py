"""Cost of a Kron adapter on 4-bit layers as wide as a 7B model's: one token, one thread.

    python -m benchmarks.wide [--processes 5] [--keep FILE]

The seven linear layers of one block of Mistral-7B (4096 and 14336 wide) as MatMulNBits in blocks
of 32 with random codes, wired as a block is but for the attention, that is left out: o reads q's
output. Slots as ``kronq export`` opens them, against the block alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import kronq
from benchmarks.shapes import MISTRAL_7B, mistral_7b
from benchmarks.turns import (
    AGAIN,
    BASE,
    Plan,
    Text,
    in_a_process,
    kept,
    print_table,
    shuffled,
    take_turns,
)
from kronq.onnx.forms import Slots

MODULE = "benchmarks.wide"
WIDTH, BLOCK = 4096, 32
ARITHMETIC = {"exact": 0, "int8 activations": 4}
"""accuracy_level of MatMulNBits."""
BLOCK_NAME = "/model/layers.0"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="a file of JSON lines, one for each process")
    args = parser.parse_args(arguments)
    found = kept(args.keep, _processes(args.processes))
    for name in dict.fromkeys(one["base"] for one in found):
        print(f"\nOne block of Mistral-7B, int4, {name}, one token, one thread; ÷ the block alone:")
        print_table([one["times"] for one in found if one["base"] == name], {"step": "time"})


def _processes(count: int) -> Iterator[dict[str, Any]]:
    adapter = mistral_7b(blocks=1)
    with tempfile.TemporaryDirectory() as scratch:
        for name, level in ARITHMETIC.items():
            base = Path(scratch, str(level))
            base.mkdir()
            onnx.save(
                block(level), base / "model.onnx", save_as_external_data=True, location="data"
            )
            folders = {BASE: base, AGAIN: base}
            for kernel in (False, True):
                folder = base / f"slots-{kernel}"
                kronq.export_onnx(adapter, base, folder, form=Slots(compiled=kernel), verify=False)
                folders["slots, kernel" if kernel else "slots"] = folder
            kron = Path(scratch, "kron.safetensors")
            kronq.save(kronq.quantize(adapter, bits=16), kron, force=True)
            request = {label: str(folder) for label, folder in folders.items()}
            for _ in range(count):
                times = in_a_process(MODULE, {"folders": request, "adapter": str(kron)})
                yield {"base": name, "times": times}


def block(level: int) -> onnx.ModelProto:
    """The seven layers: x [1, tokens, 4096] in, and o, down, k and v out."""
    rng = np.random.default_rng(0)
    nodes, weights, shapes = [], [], []

    def value(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens", width])

    def layer(x: str, name: str) -> str:
        (place, short), (rows, columns) = name.split("."), MISTRAL_7B[name]
        path = f"{BLOCK_NAME}/{place.replace('self_attn', 'attn')}/{short}/MatMulNBits"
        shape = rows, columns // BLOCK, BLOCK // 2
        codes = rng.integers(0, 256, shape, dtype=np.uint8)
        # A code minus 8 is about 4.6 on average: outputs as large as inputs.
        scales = np.full(shape[:2], 1 / (4.6 * columns**0.5), dtype=np.float32)
        weights.append(numpy_helper.from_array(codes, f"{path}.codes"))
        weights.append(numpy_helper.from_array(scales, f"{path}.scales"))
        told = {"K": columns, "N": rows, "bits": 4, "block_size": BLOCK, "accuracy_level": level}
        inputs = [x, f"{path}.codes", f"{path}.scales"]
        node = helper.make_node(
            "MatMulNBits", inputs, [f"{path}/out"], path, domain="com.microsoft", **told
        )
        nodes.append(node)
        shapes.append(value(f"{path}/out", rows))
        return f"{path}/out"

    q, k, v = (layer("x", f"self_attn.{one}_proj") for one in "qkv")
    o = layer(q, "self_attn.o_proj")
    gate, up = (layer(o, f"mlp.{one}_proj") for one in ("gate", "up"))
    nodes.append(helper.make_node("Mul", [gate, up], ["h"]))
    outs = layer("h", "mlp.down_proj"), k, v
    graph = helper.make_graph(
        nodes,
        "block",
        [value("x", WIDTH)],
        [shape for shape in shapes if shape.name in outs],
        weights,
        value_info=[shape for shape in shapes if shape.name not in outs],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def child(request: dict[str, Any]) -> dict[str, Any]:
    """One process: all sessions in random order."""
    rng = random.Random()  # noqa: S311
    sides: dict[str, Callable[[], Text]] = {}
    for label in shuffled(request["folders"], rng):
        plain = label in (BASE, AGAIN)
        loaded = {} if plain else {", Kron": request["adapter"]}
        session = kronq.Session(request["folders"][label], loaded, device="cpu", threads=1)
        for name in [""] if plain else [", empty", *loaded]:
            sides[label + name] = partial(_calls, session, name if name in loaded else None)
    return take_turns({name: sides[name] for name in sorted(sides)}, Plan(rounds=10), rng)


def _calls(session: kronq.Session, adapter: str | None) -> Text:
    """ONNX Runtime's own session: what kronq checks at each call is not the graph's."""
    x = np.random.default_rng(1).standard_normal((1, 1, WIDTH)).astype(np.float32)
    options, run = session.adapters.run_options(adapter), session._arrays.session.run

    def write() -> Iterator[None]:
        while True:
            run(None, {"x": x}, options)
            yield

    return write()


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        print(json.dumps(child(json.load(sys.stdin))))
    else:
        main()
