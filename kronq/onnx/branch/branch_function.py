"""The ONNX local function that computes a branch: y = scale · x · (A ⊗ B1·B2)ᵀ.

Its body is standard operators only, so any runtime runs it and a viewer shows one box. Quantized
factors stay integers in the file and become floats by Cast and Mul, never by DequantizeLinear: ONNX
Runtime folds the former once at load (it then runs as fast as float factors), while it silently
turns a constant DequantizeLinear and its MatMul into int8 arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from kronq.model.delta import Delta
from kronq.model.matrix import Matrix, Quantized
from kronq.onnx.branch.function_body import FunctionBody
from kronq.onnx.graph.sites import Site
from kronq.packed import matrices_by_role


@dataclass(frozen=True)
class StoredMatrix:
    """The storage of one matrix of a branch.

    Attributes:
        role: ``A``, ``A2``, ``B1`` or ``B2``.
        dtype: Type of the stored matrix.
        axis: Axis of its scales; None when it has none.
        group: (rows, columns, group size) when codes share scales in groups.
    """

    role: str
    dtype: str
    axis: int | None = None
    group: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, role: str, matrix: Matrix) -> StoredMatrix:
        if not isinstance(matrix, Quantized) or matrix.scale is None:
            return cls(role, matrix.dtype)
        size = matrix.group_size
        group = None if size is None else (*matrix.shape, size)
        return cls(role, matrix.dtype, matrix.axis, group)


@dataclass(frozen=True)
class Signature:
    """The properties that two branches must share to be nodes of one function.

    Attributes:
        matrices: The stored matrices, A first.
        dtype: Type that the base computes in; the branch computes in float32.
        pad: Whether the input is padded to a_in·b_in.
        crop: Whether the output is cropped to d_out.
        fused: Whether the output is one part of a fused weight's outputs, padded to all of them.
    """

    matrices: tuple[StoredMatrix, ...]
    dtype: ir.DataType
    pad: bool
    crop: bool
    fused: bool

    @classmethod
    def of(cls, delta: Delta, dtype: ir.DataType, fused: bool) -> Signature:
        matrices = tuple(StoredMatrix.of(role, m) for role, m in matrices_by_role(delta).items())
        (d_out, d_in), (full_out, full_in) = delta.shape, delta.full_shape
        return cls(matrices, dtype, d_in < full_in, d_out < full_out, fused)

    @property
    def roles(self) -> set[str]:
        return {matrix.role for matrix in self.matrices}

    def inputs(self) -> Iterable[str]:
        """Yields the function's inputs after x, named as ``packed.locate`` names them."""
        for matrix in self.matrices:
            yield matrix.role
            if matrix.axis is not None:
                yield f"{matrix.role}.scale"

    @property
    def name(self) -> str:
        words = ["KronBranch" if "A" in self.roles else "LoraBranch"]
        words += sorted({matrix.dtype for matrix in self.matrices} - {"float32"})
        if any(matrix.group for matrix in self.matrices):
            words.append("grouped")
        if not self.roles & {"B2"}:
            words.append("full")
        if self.pad or self.crop:
            words.append("cropped")
        if self.fused:
            words.append("part")
        return "_".join(words)


def branch_attributes(delta: Delta, signature: Signature, rank: int, site: Site) -> dict[str, Any]:
    """Returns the attributes of one branch node; a 0 in a shape keeps that dimension.

    Args:
        delta: The layer.
        signature: The function's.
        rank: Dimensions of the layer's input.
        site: The layer's place in the base.
    """
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
    factors = {m.role: _to_float(body, m, inputs) for m in signature.matrices}
    scale = body.float_attribute("scale")
    h = x
    if signature.dtype != ir.DataType.FLOAT:
        h = body.op("Cast", h, to=int(ir.DataType.FLOAT))
    if signature.pad:
        h = body.op("Pad", h, body.ints_attribute("pads"))
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


def _to_float(body: FunctionBody, matrix: StoredMatrix, inputs: Mapping[str, ir.Value]) -> ir.Value:
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
