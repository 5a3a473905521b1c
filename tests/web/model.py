"""A model folder with adapter slots, and adapters for it, made with onnx and ONNX Runtime alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

RANK = 4


def with_slots(base: Path, folder: Path) -> dict[str, tuple[int, int]]:
    """Copies a base and gives each of its layers a slot; their names, and d_in and d_out.

    A slot is x·down·up beside the layer. Its factors' defaults are of rank 0: no adapter.
    """
    shutil.copytree(base, folder)
    model = onnx.load(base / "model.onnx", load_external_data=False)
    graph = model.graph
    weights = {w.name: tuple(w.dims) for w in graph.initializer}
    nodes, slots = [], {}
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "MatMul" or "/layers." not in node.name:
            continue
        slot = node.name
        d_in, d_out = slots[slot] = weights[node.input[1]]
        for name, shape in (("down", (d_in, 0)), ("up", (0, d_out))):
            name = f"{slot}/{name}"
            free = [size or f"{slot}/rank" for size in shape]
            graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, shape, []))
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, free))
        total = node.output[0]
        node.output[0] = f"{slot}/base"
        for op, inputs, output in (
            ("MatMul", [node.input[0], f"{slot}/down"], f"{slot}/low"),
            ("MatMul", [f"{slot}/low", f"{slot}/up"], f"{slot}/delta"),
            ("Add", [f"{slot}/base", f"{slot}/delta"], total),
        ):
            nodes.append(helper.make_node(op, inputs, [output]))
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, folder / "model.onnx")
    return slots


def write_adapter(path: Path, slots: dict[str, tuple[int, int]], seed: int) -> None:
    """Random factors for every slot, as ONNX Runtime writes them."""
    rng = np.random.default_rng(seed)
    # ONNX Runtime does not keep the arrays alive that it looks at.
    arrays: dict[str, np.ndarray] = {}
    for slot, (d_in, d_out) in slots.items():
        for name, shape in (("down", (d_in, RANK)), ("up", (RANK, d_out))):
            arrays[f"{slot}/{name}"] = rng.normal(scale=0.2, size=shape).astype(np.float32)
    factors = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    file = ort.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters(factors)
    file.export_adapter(str(path))


def write_list(folder: Path, names: tuple[str, ...]) -> None:
    """What the page reads first."""
    adapters = [{"name": name, "file": f"{name}.onnx_adapter"} for name in names]
    listed = {"name": "tiny", "prompt": "Question: {}\nAnswer:", "adapters": adapters}
    (folder / "adapters.json").write_text(json.dumps(listed), encoding="utf-8")


def cpu_logits(folder: Path, adapter: str | None, ids: list[int]) -> np.ndarray:
    """Of ONNX Runtime on the CPU, with its own LoraAdapter."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
    feeds = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
    }
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    decoder = config["model"]["decoder"]
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    feeds |= {v.name: empty for v in session.get_inputs() if v.name not in feeds}
    run = ort.RunOptions()
    if adapter is not None:
        lora = ort.LoraAdapter()
        lora.Load(str(folder / f"{adapter}.onnx_adapter"))
        run.add_active_adapter(lora)
    return session.run(["logits"], feeds, run)[0]
