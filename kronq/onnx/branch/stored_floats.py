"""The part of a branch function that turns stored factors into floats."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from kronq.onnx.branch.branch_signature import StoredMatrix
from kronq.onnx.branch.function_body import FunctionBody


def to_float(body: FunctionBody, matrix: StoredMatrix, inputs: Mapping[str, ir.Value]) -> ir.Value:
    """Adds the conversion of a stored matrix to float32."""
    stored = inputs[matrix.role]
    if matrix.dtype == "float32":
        return stored
    values = body.op("Cast", stored, to=int(ir.DataType.FLOAT))
    if matrix.axis is None:
        return values
    scale = body.op("Cast", inputs[f"{matrix.role}.scale"], to=int(ir.DataType.FLOAT))
    if matrix.group is not None:
        scale = _repeat_scales(body, scale, matrix.axis, matrix.group)
    elif matrix.axis == 0:
        scale = body.op("Unsqueeze", scale, body.ints(1))
    return body.op("Mul", values, scale)


def _repeat_scales(
    body: FunctionBody, scale: ir.Value, axis: int, group: tuple[int, int, int]
) -> ir.Value:
    """Adds the expansion of group scales to one scale for each code."""
    rows, cols, size = group
    other = 1 - axis
    each = body.op("Unsqueeze", scale, body.ints(other + 1))
    each = body.op("Expand", each, body.ints(*([1, size, 1] if other == 0 else [1, 1, size])))
    each = body.op("Reshape", each, body.ints(*([-1, cols] if other == 0 else [rows, -1])))
    stop = body.ints((rows, cols)[other])
    return body.op("Slice", each, body.ints(0), stop, body.ints(other))
