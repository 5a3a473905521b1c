"""The ONNX local function of a convolution's slot.

It is the branch of a convolution (``kronq.onnx.branch.conv_branch``) with shapes that follow from
the factors' own, so that adapters of any A, rank and kernel block fill it, and rank 0 is none.
"""

from __future__ import annotations

import onnx_ir as ir

from kronq.errors import UnsupportedError
from kronq.onnx.branch.function_body import FunctionBody
from kronq.onnx.graph.convolution import Convolution

MIN_OPSET = 14
"""Opset from which Reshape takes sizes of 0 (``allowzero``)."""


def make_conv_slot(conv: Convolution, dtype: ir.DataType, name: str, opset: int) -> ir.Function:
    """Builds Z = Y + the convolution of X with A ⊗ (B1 · B2).

    X is reshaped to blocks of channels as images, B2 [rank, channels, *kernel] reads these, and A
    and B1 multiply at every position. Where the base has groups, the blocks are these: A is then
    one number, and each group has rows of B1.

    Args:
        conv: The base's convolution.
        dtype: Type that the base computes in; the slot computes in float32.
        name: Name of the function.
        opset: Version of ONNX's operators in the body.

    Raises:
        UnsupportedError: The opset is too old.
    """
    if opset < MIN_OPSET:
        raise UnsupportedError(
            "the base's opset is too old for slots of convolutions",
            found=opset,
            expected=f"{MIN_OPSET} or later",
            hint="{form=branch} takes it as it is",
        )
    body = FunctionBody()
    x, y, shape, b2, a, b1 = (ir.Value(name=n) for n in ("X", "Y_0", "shape", "B2", "A_0", "B1_0"))
    float32 = dtype == ir.DataType.FLOAT
    h = x if float32 else body.op("Cast", x, to=int(ir.DataType.FLOAT))
    h = body.op("Conv", body.op("Reshape", h, shape), b2, **conv.attributes(groups=1))
    h = _multiply(body, h, a, b1, body.op("Shape", y), conv)
    if not float32:
        h = body.op("Cast", h, to=int(dtype))
    total = body.op("Add", y, h)
    total.name = "Z_0"
    return body.function(name, [x, y, shape, b2, a, b1], [total], opset)


def _multiply(
    body: FunctionBody, h: ir.Value, a: ir.Value, b1: ir.Value, sizes: ir.Value, conv: Convolution
) -> ir.Value:
    """Adds A and B1 at every position of h, the blocks that B2 gave; ``sizes`` is Y's shape."""

    def size(value: ir.Value, start: int, stop: int) -> ir.Value:
        return body.op("Slice", value, body.ints(start), body.ints(stop))

    def reshape(value: ir.Value, *shape: ir.Value) -> ir.Value:
        return body.op("Reshape", value, body.op("Concat", *shape, axis=0), allowzero=1)

    images = size(sizes, 0, 1)
    positions = body.op("ReduceProd", size(sizes, 2, 2 + len(conv.kernel)), keepdims=1)
    rank = size(body.op("Shape", b1), 0, 1)
    left = body.op("Transpose", b1, perm=[1, 0])
    if conv.groups > 1:
        groups = body.ints(conv.groups)
        h = reshape(body.op("Mul", h, a), images, groups, rank, positions)
        rows = body.op("Div", size(sizes, 1, 2), groups)
        left = reshape(left, groups, rows, rank)
        return body.op("Reshape", body.op("MatMul", left, h), sizes)
    of_a = body.op("Shape", a)
    h = reshape(h, images, size(of_a, 1, 2), body.op("Mul", rank, positions))
    h = reshape(body.op("MatMul", a, h), images, size(of_a, 0, 1), rank, positions)
    return body.op("Reshape", body.op("MatMul", left, h), sizes)
