"""One branch as an ONNX local function: what two branches share, and the body.

A function's body is standard operators only, so any runtime runs it and a viewer shows one box.
Quantized factors stay integers in the file and become floats by Cast and Mul, never by
DequantizeLinear: ONNX Runtime folds these once at load (the result runs as fast as float factors),
while it silently turns a constant DequantizeLinear and its MatMul into int8 arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from kronq.model.delta import Delta
from kronq.model.matrix import Matrix, Quantized
from kronq.onnx.graph.sites import Site
from kronq.packed import roles

DOMAIN = "kronq"


@dataclass(frozen=True)
class Operand:
    """How one matrix of a branch is stored.

    Attributes:
        role: ``A``, ``A2``, ``B1`` or ``B2``.
        dtype: Of the stored matrix.
        axis: Of its scales, or None when it has none.
        group: (rows, columns, group size) when codes share scales in groups.
    """

    role: str
    dtype: str
    axis: int | None = None
    group: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, role: str, matrix: Matrix) -> Operand:
        if not isinstance(matrix, Quantized) or matrix.scale is None:
            return cls(role, matrix.dtype)
        size = matrix.group_size
        group = None if size is None else (*matrix.shape, size)
        return cls(role, matrix.dtype, matrix.axis, group)


@dataclass(frozen=True)
class Signature:
    """What two branches must share to be nodes of one function.

    Attributes:
        operands: The stored matrices, A first.
        dtype: What the base computes in; the branch computes in float32.
        pad: Whether the input is padded to a_in·b_in.
        crop: Whether the output is cropped to d_out.
        place: Whether the output is put in its place among a fused weight's outputs.
    """

    operands: tuple[Operand, ...]
    dtype: ir.DataType
    pad: bool
    crop: bool
    place: bool

    @classmethod
    def of(cls, delta: Delta, dtype: ir.DataType, place: bool) -> Signature:
        operands = tuple(Operand.of(role, m) for role, m in roles(delta).items())
        (d_out, d_in), (full_out, full_in) = delta.shape, delta.full_shape
        return cls(operands, dtype, d_in < full_in, d_out < full_out, place)

    @property
    def roles(self) -> set[str]:
        return {operand.role for operand in self.operands}

    def parts(self) -> Iterable[str]:
        """The function's inputs after x, named as ``packed.locate`` names them."""
        for operand in self.operands:
            yield operand.role
            if operand.axis is not None:
                yield f"{operand.role}.scale"

    @property
    def name(self) -> str:
        words = ["KronBranch" if "A" in self.roles else "LoraBranch"]
        words += sorted({operand.dtype for operand in self.operands} - {"float32"})
        if any(operand.group for operand in self.operands):
            words.append("grouped")
        if not self.roles & {"B2"}:
            words.append("full")
        if self.pad or self.crop:
            words.append("cropped")
        if self.place:
            words.append("part")
        return "_".join(words)


def attributes_of(delta: Delta, signature: Signature, rank: int, site: Site) -> dict[str, Any]:
    """What a node tells its function; 0 in a shape keeps that dimension."""
    (a_out, a_in), (b_out, b_in) = delta.a.shape, delta.b.shape
    lead = [0] * (rank - 1)
    told: dict[str, Any] = {"scale": float(delta.scale)}
    if "A" in signature.roles:
        told |= {"in_shape": [*lead, a_in, b_in], "out_shape": [*lead, a_out * b_out]}
    if signature.pad:
        told["pads"] = [*[0] * (2 * rank - 1), a_in * b_in - delta.shape[1]]
    if signature.crop:
        told["d_out"] = [delta.shape[0]]
    if signature.place:
        start, stop = site.rows(delta.shape[0])
        told["place"] = [*lead, start, *lead, site.shape[0] - stop]
    return told


def make_function(signature: Signature, name: str, opset: int) -> ir.Function:
    """The body: y = scale · x · (A ⊗ B1·B2)ᵀ without ever building the product.

    Reshape, MatMul by B2ᵀ, MatMul by A, MatMul by B1ᵀ, Reshape is the fastest of the forms that
    were measured; everything that touches only factors is folded when the model is loaded.
    """
    body = Body()
    x = ir.Value(name="X")
    parts = {part: ir.Value(name=part.replace(".", "_")) for part in signature.parts()}
    matrices = {o.role: body.matrix(o, parts) for o in signature.operands}
    scale = body.attribute("value_float", "scale", ir.AttributeType.FLOAT)
    attributes = {"scale": ir.AttributeType.FLOAT}
    ints = ir.AttributeType.INTS

    h = x
    if signature.dtype != ir.DataType.FLOAT:
        h = body.op("Cast", h, to=int(ir.DataType.FLOAT))
    if signature.pad:
        h = body.op("Pad", h, body.attribute("value_ints", "pads", ints))
        attributes["pads"] = ints
    left = body.op("Transpose", matrices["B1"], perm=[1, 0])
    kron = "A" in matrices
    if kron:
        h = body.op("Reshape", h, body.attribute("value_ints", "in_shape", ints))
    if "B2" in matrices:
        h = body.op("MatMul", h, body.op("Transpose", matrices["B2"], perm=[1, 0]))
    if kron:
        a = matrices["A"]
        if "A2" in matrices:
            a = body.op("MatMul", a, matrices["A2"])
        h = body.op("MatMul", body.op("Mul", a, scale), h)
        h = body.op("MatMul", h, left)
        h = body.op("Reshape", h, body.attribute("value_ints", "out_shape", ints))
        attributes |= {"in_shape": ints, "out_shape": ints}
    else:
        h = body.op("MatMul", h, body.op("Mul", left, scale))
    if signature.crop:
        stop = body.attribute("value_ints", "d_out", ints)
        h = body.op("Slice", h, body.ints(0), stop, body.ints(-1))
        attributes["d_out"] = ints
    if signature.place:
        h = body.op("Pad", h, body.attribute("value_ints", "place", ints))
        attributes["place"] = ints
    if signature.dtype != ir.DataType.FLOAT:
        h = body.op("Cast", h, to=int(signature.dtype))
    h.name = "Y"
    graph = ir.Graph(
        [x, *parts.values()], [h], nodes=body.nodes, opset_imports={"": opset}, name=name
    )
    return ir.Function(
        DOMAIN,
        name,
        graph=graph,
        attributes=[ir.Attr(key, kind, None) for key, kind in attributes.items()],
    )


class Body:
    """Nodes in the making."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        self.nodes.append(ir.node(op_type, inputs, attributes or None))
        return self.nodes[-1].outputs[0]

    def split(self, value: ir.Value, sizes: ir.Value, count: int) -> list[ir.Value]:
        """Along the last axis."""
        node = ir.node("Split", [value, sizes], {"axis": -1}, num_outputs=count)
        self.nodes.append(node)
        return list(node.outputs)

    def ints(self, *numbers: int) -> ir.Value:
        return self.op("Constant", value_ints=list(numbers))

    def attribute(self, kind: str, name: str, type_: ir.AttributeType) -> ir.Value:
        """A constant that is the function's attribute ``name``."""
        self.nodes.append(ir.Node("", "Constant", [], [ir.RefAttr(kind, name, type_)]))
        return self.nodes[-1].outputs[0]

    def matrix(self, operand: Operand, parts: Mapping[str, ir.Value]) -> ir.Value:
        """A stored matrix as float32."""
        stored = parts[operand.role]
        if operand.dtype == "float32":
            return stored
        values = self.op("Cast", stored, to=int(ir.DataType.FLOAT))
        if operand.axis is None:
            return values
        scale = self.op("Cast", parts[f"{operand.role}.scale"], to=int(ir.DataType.FLOAT))
        if operand.group is not None:
            scale = self.repeated(scale, operand.axis, operand.group)
        elif operand.axis == 0:
            scale = self.op("Unsqueeze", scale, self.ints(1))
        return self.op("Mul", values, scale)

    def repeated(self, scale: ir.Value, axis: int, group: tuple[int, int, int]) -> ir.Value:
        """Scales of groups, repeated to one for each code."""
        rows, cols, size = group
        other = 1 - axis
        each = self.op("Unsqueeze", scale, self.ints(other + 1))
        each = self.op("Expand", each, self.ints(*([1, size, 1] if other == 0 else [1, 1, size])))
        each = self.op("Reshape", each, self.ints(*([-1, cols] if other == 0 else [rows, -1])))
        stop = self.ints((rows, cols)[other])
        return self.op("Slice", each, self.ints(0), stop, self.ints(other))
