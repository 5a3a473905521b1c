"""Differences between two arrays, and the tolerances for them."""

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
"""Largest relative difference of one layer's outputs, by the type that it computes in."""
ROWS = 3
"""Random rows that one layer is run on."""


def measure_difference(
    computed: NDArray[Any], expected: NDArray[Any], tolerance: float, where: str
) -> Difference:
    """Returns the largest difference of two arrays.

    Args:
        computed: Array to check.
        expected: Reference of the same shape.
        tolerance: Largest relative difference to accept.
        where: The layer or output that they belong to.

    Raises:
        KronqError: Their shapes differ.
    """
    if computed.shape != expected.shape:
        raise KronqError(
            "shapes differ", layer=where, found=computed.shape, expected=expected.shape
        )
    wide = np.asarray(expected, dtype=np.float64)
    if wide.size == 0:
        return Difference(tolerance=tolerance, where=where)
    largest = float(np.abs(np.asarray(computed, dtype=np.float64) - wide).max())
    size = float(np.abs(wide).max())
    if np.isnan(largest):
        largest = float("inf")
    relative = largest / size if size else largest
    return Difference(largest=largest, relative=relative, tolerance=tolerance, where=where)


def larger_difference(one: Difference, other: Difference) -> Difference:
    return other if other.relative >= one.relative else one


def refuse_difference(difference: Difference, message: str) -> None:
    """Refuses a difference beyond its tolerance.

    Raises:
        KronqError: It is beyond.
    """
    if not difference.relative <= difference.tolerance:
        raise KronqError(
            f"{message}: nothing was written",
            layer=difference.where,
            found=f"a relative difference of {difference.relative:.2g}",
            expected=f"at most {difference.tolerance:.2g}",
        )
