"""The ONNX local function of a group of slots: it adds the adapter to the layers' outputs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from kronq.onnx.branch.function_body import DOMAIN, FunctionBody
from kronq.onnx.graph.convolution import Convolution
from kronq.onnx.slots.conv_slot import make_conv_slot


@dataclass(frozen=True)
class SlotSignature:
    """The properties that two groups must share to be nodes of one function.

    Attributes:
        targets: For each member, the base output that it adds to.
        fused: For each member, whether it is one part of that output, padded to all of it.
        dtype: Type that the base computes in; slots compute in float32.
        conv: How the one member reads its input, where it is a convolution.
        by_row: Whether each row of the batch has factors of its own, gathered from stacks of them.
    """

    targets: tuple[int, ...]
    fused: tuple[bool, ...]
    dtype: ir.DataType
    conv: Convolution | None = None
    by_row: bool = False

    @property
    def name(self) -> str:
        name = f"{'KronRows' if self.by_row else 'KronSlots'}_{len(self.targets)}"
        name = name if self.conv is None else f"KronConvSlots_{self.conv.name}"
        name += f"_fused_{'_'.join(map(str, self.targets))}" if any(self.fused) else ""
        return name + ("" if self.dtype == ir.DataType.FLOAT else f"_{self.dtype.name.lower()}")


def add_slot_function(model: ir.Model, signature: SlotSignature, opset: int) -> str:
    """Returns the name of a group's function, added to the model where it is not there yet.

    Args:
        model: Gets the function.
        signature: The group's.
        opset: Version of ONNX's operators in the body.
    """
    if (DOMAIN, signature.name, "") not in model.functions:
        if signature.conv is None:
            function = _make_slot_function(signature, opset)
        else:
            function = make_conv_slot(signature.conv, signature.dtype, signature.name, opset)
        model.functions[function.identifier()] = function
    return signature.name


def _make_slot_function(signature: SlotSignature, opset: int) -> ir.Function:
    """Builds Z_i = Y_i + Σ A · (x · B2ᵀ) · B1ᵀ, over the members that add to output i.

    By row, A, B1ᵀ and B2ᵀ are stacks of matrices [adapters, 1, rows, cols], and the last input says
    which of them each row of the batch takes.
    """
    body, count = FunctionBody(), len(signature.targets)
    x, shape, b2, ranks = (ir.Value(name=key) for key in ("X", "shape", "B2", "ranks"))
    bases = [ir.Value(name=f"Y_{i}") for i in range(max(signature.targets) + 1)]
    factors = [(ir.Value(name=f"A_{i}"), ir.Value(name=f"B1_{i}")) for i in range(count)]
    row = ir.Value(name="row")
    float32 = signature.dtype == ir.DataType.FLOAT

    def own(stack: ir.Value) -> ir.Value:
        return body.op("Gather", stack, row, axis=0) if signature.by_row else stack

    h = x if float32 else body.op("Cast", x, to=int(ir.DataType.FLOAT))
    h = body.op("MatMul", body.op("Reshape", h, shape), own(b2))
    totals = list(bases)
    for i, part in enumerate(body.split(h, ranks, count) if count > 1 else [h]):
        a, b1 = factors[i]
        h = body.op("MatMul", body.op("MatMul", own(a), part), own(b1))
        h = body.op("Reshape", h, body.ints_attribute(f"shape_{i}"))
        if signature.fused[i]:
            h = body.op("Pad", h, body.ints_attribute(f"place_{i}"))
        if not float32:
            h = body.op("Cast", h, to=int(signature.dtype))
        target = signature.targets[i]
        totals[target] = body.op("Add", totals[target], h)
    for i, total in enumerate(totals):
        total.name = f"Z_{i}"
    inputs = [x, *bases, shape, b2, *([ranks] if count > 1 else [])]
    inputs += [value for pair in factors for value in pair]
    inputs += [row] if signature.by_row else []
    return body.function(signature.name, inputs, totals, opset)
