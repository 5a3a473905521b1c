"""Why a branch turns codes into floats by Cast and Mul: four bodies in a default session.

    python -m benchmarks.bodies

One Kron branch of a 576×576 layer, A 4×4, rank 8, one thread: the largest relative error against
float64, and the time of one call at one token, alternating.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import kronq
from benchmarks.sizes import ADAPTER

LAYER = "model.layers.0.self_attn.q_proj"
RUNS, CALLS = 15, 400


def main() -> None:
    delta = kronq.quantize(kronq.load(ADAPTER), kronq.Uniform(bits=8))[LAYER]
    x = np.random.default_rng(0).standard_normal((1, 1, 576)).astype(np.float32)
    dense = np.kron(delta.a.float64() * delta.scale, delta.b.float64())
    expected = x.astype(np.float64) @ dense.T
    bodies = ("float factors", "Cast, Mul", "DequantizeLinear", "DequantizeLinear, float16 scales")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: ort.InferenceSession(model(delta, name).SerializeToString(), options)
        for name in bodies
    }
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for _ in range(RUNS):
        for name, session in sessions.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                session.run(None, {"x": x})
            times[name].append((time.perf_counter() - start) / CALLS)
    print("One Kron branch, 576×576, int8 codes, default session, one thread, one token:")
    for name, session in sessions.items():
        found = session.run(None, {"x": x})[0]
        error = np.abs(found - expected).max() / np.abs(expected).max()
        ratios = [t / f for t, f in zip(times[name], times["float factors"], strict=True)]
        print(
            f"  {name:<34} relative error {error:.1e}   time {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) of the float factors'"
        )


def model(delta: kronq.Delta, body: str) -> onnx.ModelProto:
    """x [1, tokens, d_in] → x·ΔWᵀ with B's factors as ``body`` says."""
    a = (delta.a.float64() * delta.scale).astype(np.float32)
    (a_out, a_in), (b_out, b_in) = delta.a.shape, delta.b.shape
    constants = {
        "A": a,
        "in": np.array([0, 0, a_in, b_in]),
        "out": np.array([0, 0, a_out * b_out]),
    }
    nodes = [helper.make_node("Reshape", ["x", "in"], ["h0"])]
    for name, matrix in (("B1", delta.b.left), ("B2", delta.b.right)):
        if body == "float factors":
            constants[f"{name}f"] = matrix.float32()
        else:
            axis = matrix.axis
            scale = matrix.scale.astype(np.float32)
            constants[name] = np.asarray(matrix.codes, dtype=np.int8)
            if body == "Cast, Mul":
                constants[f"{name}s"] = np.expand_dims(scale, 1 - axis)
                nodes.append(helper.make_node("Cast", [name], [f"{name}c"], to=TensorProto.FLOAT))
                nodes.append(helper.make_node("Mul", [f"{name}c", f"{name}s"], [f"{name}f"]))
            else:
                half = "float16" in body
                constants[f"{name}s"] = matrix.scale if half else scale
                out = f"{name}h" if half else f"{name}f"
                inputs = [name, f"{name}s"]
                nodes.append(helper.make_node("DequantizeLinear", inputs, [out], axis=axis))
                if half:
                    cast = helper.make_node("Cast", [out], [f"{name}f"], to=TensorProto.FLOAT)
                    nodes.append(cast)
        nodes.append(helper.make_node("Transpose", [f"{name}f"], [f"{name}t"], perm=[1, 0]))
    nodes += [
        helper.make_node("MatMul", ["h0", "B2t"], ["h1"]),
        helper.make_node("MatMul", ["A", "h1"], ["h2"]),
        helper.make_node("MatMul", ["h2", "B1t"], ["h3"]),
        helper.make_node("Reshape", ["h3", "out"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "branch",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", delta.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "tokens", delta.shape[0]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


if __name__ == "__main__":
    main()
