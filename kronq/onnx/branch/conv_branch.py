"""The branch of a convolution: scale · (A ⊗ B1·B2) as convolutions, without ΔW.

The columns of ΔW [d_out, d_in·K] are channel · K + position in the kernel, so B2 [r, b_in·K] is
itself the weight of a convolution [r, b_in, *kernel], and A ⊗ B1 one of size 1. Where the base has
no groups, x's a_in blocks of channels are images of a batch, which B2 reads with the base's
strides, padding and dilations; A, then B1 multiply what it gives, at every position. Beside SD1.5's
convolutions (rank 16, A 8×8) this costs 2 to 9 % of the base's time, and B2 as a grouped
convolution before A ⊗ B1 3 to 15 %. Where the base has groups, the latter is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from kronq.model.delta import ONE, Delta
from kronq.onnx.branch.function_body import FunctionBody
from kronq.onnx.graph.convolution import Convolution

_Factors = Mapping[str, ir.Value]


def conv_attributes(delta: Delta, conv: Convolution) -> dict[str, Any]:
    """Returns the attributes of one branch node; in a shape 0 keeps a size, −1 takes the rest.

    Args:
        delta: The layer.
        conv: The base's convolution.
    """
    (a_out, a_in), b_out = delta.a.shape, delta.b.shape[0]
    channels = delta.weight_shape[1] // a_in
    whole = delta.b.right is None
    rank = b_out if whole else delta.b.rank
    point, spatial = [1] * len(conv.kernel), [0] * len(conv.kernel)
    attributes: dict[str, Any] = {
        "scale": float(delta.scale),
        "down": [rank, channels, *conv.kernel],
    }
    if delta.a is ONE:
        if whole:
            return attributes
        attributes["up"] = [b_out, rank, *point]
        repeats = {"groups": conv.groups, "repeats": [conv.groups, 1, *point]}
        return attributes | (repeats if conv.groups > 1 else {})
    if conv.groups > 1:
        return attributes | {
            "groups": conv.groups * a_in,
            "repeats": [conv.groups * a_in, 1, *point],
            "up": [a_out * b_out, a_in * rank, *point],
        }
    return attributes | {
        "blocks": [-1, channels, *spatial],
        "whole": [-1, a_in * rank, *spatial],
        "rows": [0, a_in, -1],
        "d_out": [-1, a_out * b_out],
        **({} if whole else {"ranks": [0, a_out, rank, -1]}),
    }


def convolve(
    body: FunctionBody, x: ir.Value, factors: _Factors, scale: ir.Value, conv: Convolution
) -> ir.Value:
    """Adds what a branch adds to a convolution's output.

    Args:
        body: The branch's function.
        x: The convolution's input.
        factors: ``A``, ``A2``, ``B1`` and ``B2`` as floats, where they are.
        scale: Scale of the layer.
        conv: The base's convolution.
    """
    left, right = factors["B1"], factors.get("B2")
    down = body.op("Reshape", left if right is None else right, body.ints_attribute("down"))
    if "A" not in factors:
        down = body.op("Mul", down, scale)
        if right is None:
            return body.op("Conv", x, down, **conv.attributes())
        up = body.op("Reshape", left, body.ints_attribute("up"))
        return _convolve_twice(body, x, down, up, conv)
    a = factors["A"]
    if "A2" in factors:
        a = body.op("MatMul", a, factors["A2"])
    a = body.op("Mul", a, scale)
    if conv.groups > 1:
        if right is None:
            turned = body.op("Transpose", left, perm=[1, 0])
            left = body.op("EyeLike", body.op("MatMul", left, turned))
        up = body.op(
            "Mul",
            body.op("Unsqueeze", a, body.ints(1, 3)),
            body.op("Unsqueeze", left, body.ints(0, 2)),
        )
        up = body.op("Reshape", up, body.ints_attribute("up"))
        return _convolve_twice(body, x, down, up, conv)
    return _fold(body, x, a, left if right is not None else None, down, conv)


def _convolve_twice(
    body: FunctionBody, x: ir.Value, down: ir.Value, up: ir.Value, conv: Convolution
) -> ir.Value:
    """Adds a convolution with the base's geometry, and one of size 1."""
    if conv.groups > 1:
        groups = body.int_reference("group", "groups")
        down = body.op("Tile", down, body.ints_attribute("repeats"))
        h = body.op("Conv", x, down, **conv.attributes() | {"group": groups})
    else:
        h = body.op("Conv", x, down, **conv.attributes())
    return body.op("Conv", h, up, group=conv.groups)


def _fold(
    body: FunctionBody,
    x: ir.Value,
    a: ir.Value,
    left: ir.Value | None,
    down: ir.Value,
    conv: Convolution,
) -> ir.Value:
    """Adds B2 on blocks of channels as images of a batch, and A and B1 at every position."""
    blocks = body.op("Reshape", x, body.ints_attribute("blocks"))
    h = body.op("Conv", blocks, down, **conv.attributes())
    end = body.ints(2 + len(conv.kernel))
    sizes = body.op("Slice", body.op("Shape", h), body.ints(2), end)
    whole = body.op("Reshape", h, body.ints_attribute("whole"))
    h = body.op("MatMul", a, body.op("Reshape", whole, body.ints_attribute("rows")))
    if left is not None:
        h = body.op("MatMul", left, body.op("Reshape", h, body.ints_attribute("ranks")))
    shape = body.op("Concat", body.ints_attribute("d_out"), sizes, axis=0)
    return body.op("Reshape", h, shape)
