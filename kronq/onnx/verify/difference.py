"""How far two arrays are apart, and whether that is too far."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.errors import KronqError
from kronq.onnx.export_report import Difference

TOLERANCES = {
    ir.DataType.FLOAT: 1e-4,
    ir.DataType.FLOAT16: 5e-3,
    ir.DataType.BFLOAT16: 4e-2,
}
ROWS = 3
"""Random rows that one layer is tried on."""


def difference(
    found: NDArray[Any], expected: NDArray[Any], tolerance: float, where: str
) -> Difference:
    if found.shape != expected.shape:
        raise KronqError("shapes differ", layer=where, found=found.shape, expected=expected.shape)
    wide = np.asarray(expected, dtype=np.float64)
    if wide.size == 0:
        return Difference(tolerance=tolerance, where=where)
    largest = float(np.abs(np.asarray(found, dtype=np.float64) - wide).max())
    size = float(np.abs(wide).max())
    if np.isnan(largest):
        largest = float("inf")
    relative = largest / size if size else largest
    return Difference(largest=largest, relative=relative, tolerance=tolerance, where=where)


def worse(one: Difference, other: Difference) -> Difference:
    return other if other.relative >= one.relative else one


def accept(found: Difference, message: str) -> None:
    if not found.relative <= found.tolerance:
        raise KronqError(
            f"{message}: nothing was written",
            layer=found.where,
            found=f"a relative difference of {found.relative:.2g}",
            expected=f"at most {found.tolerance:.2g}",
        )
