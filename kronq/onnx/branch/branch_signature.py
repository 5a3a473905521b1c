"""The properties that two branches must share to be nodes of one function."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from kronq.model.delta import Delta
from kronq.model.matrix import Matrix, Quantized
from kronq.onnx.graph.convolution import Convolution
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
        conv: How the branch of a convolution reads its input.
    """

    matrices: tuple[StoredMatrix, ...]
    dtype: ir.DataType
    pad: bool
    crop: bool
    fused: bool
    conv: Convolution | None = None

    @classmethod
    def of(cls, delta: Delta, site: Site) -> Signature:
        matrices = tuple(StoredMatrix.of(role, m) for role, m in matrices_by_role(delta).items())
        (d_out, d_in), (full_out, full_in) = delta.shape, delta.full_shape
        pad, crop = d_in < full_in, d_out < full_out
        return cls(matrices, site.dtype, pad, crop, site.part is not None, site.conv)

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
        if self.conv is not None:
            words[0] = words[0].replace("Branch", "ConvBranch")
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
