"""Checks the factors that fill each slot against ΔW, by the formula of a slot in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.model.adapter import Adapter
from kronq.model.matrix import F32
from kronq.onnx.export_report import Difference
from kronq.onnx.slots.slot_spec import SlotGroup, SlotSpec, a_name, b1_name
from kronq.onnx.verify.difference import (
    ROWS,
    TOLERANCES,
    larger_difference,
    measure_difference,
    refuse_difference,
)


def check_slots(
    adapter: Adapter, spec: SlotSpec, factors: Mapping[str, NDArray[Any]]
) -> Difference:
    """Compares a slot's formula, on its factors, with ``Delta.apply`` on random rows.

    Args:
        adapter: The adapter.
        spec: The slots.
        factors: Input name → array, as ``factor_inputs`` returns them.

    Returns:
        The largest difference.

    Raises:
        KronqError: A layer differs by more than the tolerance.
    """
    rng = np.random.default_rng(0)
    worst = Difference(tolerance=TOLERANCES[ir.DataType.FLOAT])
    for group in spec.groups:
        x = rng.standard_normal((ROWS, group.d_in)).astype(np.float32)
        h = _multiply_b2(x, factors, group)
        ends: list[int] = []
        if group.ranks_name:
            ends = np.cumsum(factors[group.ranks_name])[:-1].tolist()
        for member, part in zip(group.members, np.split(h, ends, axis=-1), strict=True):
            if member.layer in adapter:
                y = factors[a_name(member.layer)] @ part @ factors[b1_name(member.layer)]
                expected = adapter[member.layer].apply(x)
                y = y.reshape(expected.shape)
                difference = measure_difference(y, expected, worst.tolerance, member.layer)
                refuse_difference(difference, "the factors of a slot differ from the normal form")
                worst = larger_difference(worst, difference)
    return worst


def _multiply_b2(x: F32, factors: Mapping[str, NDArray[Any]], group: SlotGroup) -> NDArray[Any]:
    """Returns blocks of x times B2ᵀ; of a convolution x is a patch of its input."""
    b2 = factors[group.b2_name]
    if group.conv is None:
        return np.asarray(x.reshape(ROWS, *factors[group.shape_name][-2:]) @ b2)
    a_in = factors[a_name(group.members[0].layer)].shape[1]
    return np.asarray(x.reshape(ROWS, a_in, -1) @ b2.reshape(len(b2), -1).T)
