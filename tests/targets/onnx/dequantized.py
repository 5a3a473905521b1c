"""MatMulNBits as MatMul on float weights, by ONNX Runtime itself: each node is run on I."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort


def dequantized(base: Path, out: Path) -> None:
    """Writes the same model with float weights."""
    model = onnx.load(base)
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        sizes = {a.name: a.i for a in node.attribute}
        one = onnx.NodeProto()
        one.CopyFrom(node)
        one.input[0], one.output[0] = "x", "y"
        graph = onnx.helper.make_graph(
            [one],
            "one",
            [onnx.helper.make_tensor_value_info("x", 1, [sizes["K"], sizes["K"]])],
            [onnx.helper.make_tensor_value_info("y", 1, [sizes["K"], sizes["N"]])],
            [i for i in model.graph.initializer if i.name in node.input],
        )
        told = {"opset_imports": model.opset_import, "ir_version": model.ir_version}
        alone = onnx.helper.make_model(graph, **told).SerializeToString()
        eye = np.eye(sizes["K"], dtype=np.float32)
        weight = ort.InferenceSession(alone).run(None, {"x": eye})[0]
        name = f"{node.input[1]}_float"
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
        plain = onnx.helper.make_node("MatMul", [node.input[0], name], node.output, node.name)
        node.CopyFrom(plain)
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)
