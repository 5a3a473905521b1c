"""What ONNX makes of codes and scales: a model of one DequantizeLinear, run by two runtimes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from kronq.model.matrix import Quantized

TYPES = {8: TensorProto.INT8, 4: TensorProto.INT4}


def model(codes: TensorProto, scale: TensorProto, **attributes: int) -> onnx.ModelProto:
    node = helper.make_node("DequantizeLinear", ["codes", "scale"], ["values"], **attributes)
    output = helper.make_tensor_value_info("values", TensorProto.FLOAT, list(codes.dims))
    graph = helper.make_graph([node], "dequantize", [], [output], [codes, scale])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def attributes(q: Quantized) -> dict[str, int]:
    """ONNX's axis is the channel's; with blocks it is the one that the blocks cut."""
    if q.group_size is None:
        return {"axis": q.axis}
    return {"axis": 1 - q.axis, "block_size": q.group_size}


def of(q: Quantized) -> onnx.ModelProto:
    codes = np.asarray(q.codes, dtype=np.int8)
    return model(
        helper.make_tensor("codes", TYPES[q.bits], codes.shape, codes.ravel().tolist()),
        helper.make_tensor(
            "scale", TensorProto.FLOAT, q.scale.shape, q.scale.astype(np.float32).ravel().tolist()
        ),
        **attributes(q),
    )


def by_onnx(made: onnx.ModelProto) -> NDArray[np.float32]:
    return np.asarray(ReferenceEvaluator(made).run(None, {})[0])


def by_onnxruntime(made: onnx.ModelProto | str) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = made if isinstance(made, str) else made.SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0])
