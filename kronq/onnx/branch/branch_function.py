"""The ONNX local function that computes a branch: y = scale · x · (A ⊗ B1·B2)ᵀ.

Its body is standard operators only, so any runtime runs it and a viewer shows one box. Quantized
factors stay integers in the file and become floats by Cast and Mul, never by DequantizeLinear: ONNX
Runtime folds the former once at load (it then runs as fast as float factors), while it silently
turns a constant DequantizeLinear and its MatMul into int8 arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from kronq.model.delta import Delta
from kronq.onnx.branch.branch_signature import Signature
from kronq.onnx.branch.conv_branch import conv_attributes, convolve
from kronq.onnx.branch.function_body import FunctionBody
from kronq.onnx.branch.stored_floats import to_float
from kronq.onnx.graph.sites import Site


def branch_attributes(delta: Delta, signature: Signature, rank: int, site: Site) -> dict[str, Any]:
    """Returns the attributes of one branch node; a 0 in a shape keeps that dimension.

    Args:
        delta: The layer.
        signature: The function's.
        rank: Dimensions of the layer's input.
        site: The layer's place in the base.
    """
    if site.conv is not None:
        return conv_attributes(delta, site.conv)
    (a_out, a_in), (b_out, b_in) = delta.a.shape, delta.b.shape
    lead = [0] * (rank - 1)
    attributes: dict[str, Any] = {"scale": float(delta.scale)}
    if "A" in signature.roles:
        attributes |= {"in_shape": [*lead, a_in, b_in], "out_shape": [*lead, a_out * b_out]}
    if signature.pad:
        attributes["pads"] = [*[0] * (2 * rank - 1), a_in * b_in - delta.shape[1]]
    if signature.crop:
        attributes["d_out"] = [delta.shape[0]]
    if signature.fused:
        start, stop = site.rows(delta.shape[0])
        attributes["place"] = [*lead, start, *lead, site.shape[0] - stop]
    return attributes


def make_branch_function(signature: Signature, name: str, opset: int) -> ir.Function:
    """Builds the function of a signature; the Kronecker product itself is never built.

    Reshape, MatMul by B2ᵀ, MatMul by A, MatMul by B1ᵀ, Reshape is the fastest of the forms that
    were measured; everything that touches only factors is folded when the model is loaded.
    """
    body = FunctionBody()
    x = ir.Value(name="X")
    inputs = {part: ir.Value(name=part.replace(".", "_")) for part in signature.inputs()}
    factors = {m.role: to_float(body, m, inputs) for m in signature.matrices}
    scale = body.float_attribute("scale")
    h = x
    if signature.dtype != ir.DataType.FLOAT:
        h = body.op("Cast", h, to=int(ir.DataType.FLOAT))
    if signature.pad:
        h = body.op("Pad", h, body.ints_attribute("pads"))
    if signature.conv is not None:
        h = convolve(body, h, factors, scale, signature.conv)
    else:
        h = _multiply(body, h, factors, scale)
    if signature.crop:
        stop = body.ints_attribute("d_out")
        h = body.op("Slice", h, body.ints(0), stop, body.ints(-1))
    if signature.fused:
        h = body.op("Pad", h, body.ints_attribute("place"))
    if signature.dtype != ir.DataType.FLOAT:
        h = body.op("Cast", h, to=int(signature.dtype))
    h.name = "Y"
    return body.function(name, [x, *inputs.values()], [h], opset)


def _multiply(
    body: FunctionBody, x: ir.Value, factors: Mapping[str, ir.Value], scale: ir.Value
) -> ir.Value:
    """Adds scale · x · (A ⊗ B1·B2)ᵀ; without A, scale · x · (B1·B2)ᵀ."""
    left = body.op("Transpose", factors["B1"], perm=[1, 0])
    if "A" in factors:
        x = body.op("Reshape", x, body.ints_attribute("in_shape"))
    if "B2" in factors:
        x = body.op("MatMul", x, body.op("Transpose", factors["B2"], perm=[1, 0]))
    if "A" not in factors:
        return body.op("MatMul", x, body.op("Mul", left, scale))
    a = factors["A"]
    if "A2" in factors:
        a = body.op("MatMul", a, factors["A2"])
    x = body.op("MatMul", body.op("Mul", a, scale), x)
    x = body.op("MatMul", x, left)
    return body.op("Reshape", x, body.ints_attribute("out_shape"))
