"""Small ONNX models and adapters to try everything on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float, Matrix, Quantized, scale_shape

D_IN, D_MID, D_OUT = 24, 36, 20
LAYERS = {"model.layers.0.self_attn.q_proj": (D_MID, D_IN), "model.layers.0.mlp.up": (D_OUT, D_MID)}
FAMILIES = ["kron", "split", "full", "cropped", "lora"]


def weights(seed: int = 0, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Hugging Face orientation: [d_out, d_in]."""
    rng = np.random.default_rng(seed)
    return {n: (rng.standard_normal(s) / 5).astype(dtype) for n, s in LAYERS.items()}


def build(
    path: Path,
    kind: str = "matmul",
    *,
    dtype: type = np.float32,
    opset: int = 22,
    names: str = "hf",
    data: bool = False,
) -> dict[str, np.ndarray]:
    """Writes x → layer → Relu → layer → y; ``kind`` is how a layer is made."""
    stored = weights(dtype=dtype)
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, inits, value = [], [], "x"
    for i, (layer, w) in enumerate(stored.items()):
        out = "y" if i == len(stored) - 1 else f"h{i}"
        weight = f"{layer}.weight"
        node = f"node_{i}"
        if names == "genai":
            short = layer.replace("self_attn", "attn")
            weight = f"{short}.MatMul.weight"
            node = "/" + short.replace(".", "/").replace("layers/", "layers.") + "/MatMul"
        elif names == "torchscript":
            weight = f"onnx::MatMul_{i + 50}"
            node = "/" + layer.replace(".", "/").replace("layers/", "layers.") + "/MatMul"
        elif names == "inner":
            weight = weight.removeprefix("model.")
        if kind == "matmul":
            inits.append(numpy_helper.from_array(np.ascontiguousarray(w.T), weight))
            nodes.append(helper.make_node("MatMul", [value, weight], [out], name=node))
        elif kind == "transposed":
            inits.append(numpy_helper.from_array(w, weight))
            nodes.append(helper.make_node("Transpose", [weight], [f"{out}_w"], perm=[1, 0]))
            nodes.append(helper.make_node("MatMul", [value, f"{out}_w"], [out], name=node))
        elif kind == "half":
            inits.append(numpy_helper.from_array(w.T.astype(np.float16), weight))
            nodes.append(helper.make_node("Cast", [weight], [f"{out}_w"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("MatMul", [value, f"{out}_w"], [out], name=node))
        else:
            turned = int(kind == "gemm_t")
            bias = (np.arange(w.shape[0]) / 10).astype(dtype)
            inits.append(numpy_helper.from_array(w if turned else w.T.copy(), weight))
            inits.append(numpy_helper.from_array(bias, f"{layer}.bias"))
            inputs = [value, weight, f"{layer}.bias"]
            nodes.append(helper.make_node("Gemm", inputs, [out], name=node, transB=turned))
        if i == 0:
            nodes.append(helper.make_node("Relu", [out], [f"{out}_r"]))
            value = f"{out}_r"
    lead = ["batch"] if kind.startswith("gemm") else ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", elem, [*lead, D_IN])],
        [helper.make_tensor_value_info("y", elem, [*lead, D_OUT])],
        inits,
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10)
    model = onnx.shape_inference.infer_shapes(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    location = f"{path.name}.data" if data else None
    onnx.save(model, path, save_as_external_data=data, location=location, size_threshold=0)
    return stored


def quantized(matrix: np.ndarray, bits: int, axis: int, group_size: int | None = None) -> Quantized:
    """Plain rounding, for tests only."""
    top = 2 ** (bits - 1) - 1
    rows, cols = matrix.shape
    shape = scale_shape((rows, cols), axis, group_size)
    grid = Quantized(
        np.zeros((rows, cols), np.int8), np.zeros(shape, np.float16), bits, axis, group_size
    )
    scale = np.full(shape, np.abs(matrix).max() / top, dtype=np.float16)
    scale *= np.linspace(0.5, 1.0, scale.size).reshape(shape).astype(np.float16)
    grid = Quantized(np.zeros((rows, cols), np.int8), scale, bits, axis, group_size)
    codes = np.clip(np.rint(matrix / grid.scale_grid()), -top - 1, top).astype(np.int8)
    return Quantized(codes, scale, bits, axis, group_size)


def adapter(
    family: str = "kron",
    *,
    bits: int | None = None,
    group_size: int | None = None,
    dtype: type = np.float32,
    seed: int = 1,
    layers: dict[str, tuple[int, int]] | None = None,
) -> Adapter:
    """``kron``, ``split`` (decomposed A), ``full`` (whole B), ``cropped``, ``lora``."""
    rng = np.random.default_rng(seed)
    rank = 5

    def matrix(rows: int, cols: int, axis: int) -> Matrix:
        values = (rng.standard_normal((rows, cols)) / 2).astype(np.float32)
        if bits is None:
            return Float(values.astype(dtype))
        return quantized(values, bits, axis, group_size)

    made = {}
    for name, (d_out, d_in) in (layers or LAYERS).items():
        a_out, a_in = (1, 1) if family == "lora" else (5, 7) if family == "cropped" else (4, 4)
        b_out, b_in = -(-d_out // a_out), -(-d_in // a_in)
        if family == "full":
            b = Product(matrix(b_out, b_in, 0))
        else:
            b = Product(matrix(b_out, rank, 1), matrix(rank, b_in, 0))
        if family == "lora":
            a = ONE
        elif family == "split":
            a = Product(Float(rng.standard_normal((a_out, 2)).astype(dtype)), matrix(2, a_in, 0))
        else:
            a = Product(matrix(a_out, a_in, 0))
        shape = (d_out, d_in) if family != "cropped" else (a_out * b_out, a_in * b_in)
        made[name] = Delta(a, b, 0.75, shape)
    origin = Origin("factors", cropped_by_base=True) if family == "cropped" else Origin("memory")
    return Adapter(made, origin)


def expected(
    stored: dict[str, np.ndarray],
    changes: dict[str, np.ndarray],
    x: np.ndarray,
    kind: str = "matmul",
) -> np.ndarray:
    """The tiny model with W + ΔW, in float64."""
    value = x.astype(np.float64)
    for i, (name, w) in enumerate(stored.items()):
        value = value @ (w.astype(np.float64) + changes.get(name, 0)).T
        if kind.startswith("gemm"):
            value = value + np.arange(w.shape[0]) / 10
        if i == 0:
            value = np.maximum(value, 0)
    return value


def random_input(kind: str, dtype: type = np.float32) -> np.ndarray:
    shape = (3, D_IN) if kind.startswith("gemm") else (2, 3, D_IN)
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def dense(adapter: Adapter) -> dict[str, np.ndarray]:
    return {
        name: d.dense().astype(np.float64)[: LAYERS[name][0], : LAYERS[name][1]]
        for name, d in adapter.items()
    }


def run(model: Path, x: np.ndarray) -> np.ndarray:
    """Runs a model in a default session: exact arithmetic must not need a setting."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def relative_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
