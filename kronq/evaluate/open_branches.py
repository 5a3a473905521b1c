"""Base graph with the branches of an adapter, whose factors are graph inputs.

Candidates of one adapter differ in their numbers only. Each is a set of arrays for one graph,
2.5 MB for 613,920 parameters, where an export would write the base again.

The slots of ``kronq.onnx.slots`` do the same for programs, with fewer inputs, but they refuse a
layer that the base uses twice, and are 5 % slower at this: 6.48 s against 6.18 s of processor time
(medians of 5 interleaved runs, one thread, the same losses to the bit) for the right answers of the
first 64 example questions on SmolLM2-135M in float32.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.onnx.branch.add_branches import add_branches
from kronq.onnx.graph.layer_match import Matches
from kronq.packed import matrices_by_role

BranchShapes = tuple[tuple[object, ...], ...]
Feeds = dict[str, NDArray[Any]]


def absorb_scales(adapter: Adapter) -> Adapter:
    """Returns the same ΔW as float32 factors of scale 1, with A multiplied out.

    The scale goes into A, or into B1 for a LoRA.
    """
    return replace(adapter, layers={name: _absorb_scale(d) for name, d in adapter.items()})


def branch_shapes(adapter: Adapter) -> BranchShapes:
    """Returns what two adapters must share to run in one graph; ranks may differ."""
    return tuple(
        (name, delta.shape, delta.a is ONE or delta.a.shape, delta.b.shape, delta.b.right is None)
        for name, delta in adapter.items()
    )


def open_branches(model: ir.Model, adapter: Adapter, matches: Matches) -> None:
    """Adds the branches of an adapter to ``model``, in place, with factors as graph inputs.

    Args:
        model: The base.
        adapter: An adapter of ``absorb_scales``; its numbers are not used.
        matches: Layer → the sites that it is added to.
    """
    values: dict[str, dict[str, ir.Value]] = {}
    for layer, delta in adapter.items():
        for role, matrix in matrices_by_role(delta).items():
            rows, cols = matrix.shape
            shape: list[int | str] = [rows, cols]
            if delta.b.right is not None and role in ("B1", "B2"):
                shape["B2B1".index(role) // 2] = f"{layer}.rank"
            value = ir.Value(
                name=_input_name(layer, role),
                shape=ir.Shape(shape),
                type=ir.TensorType(ir.DataType.FLOAT),
            )
            model.graph.inputs.append(value)
            values.setdefault(layer, {})[role] = value
    add_branches(model, adapter, matches, values)


def branch_feeds(adapter: Adapter) -> Feeds:
    """Returns the arrays of an adapter of ``absorb_scales`` by the names of graph inputs."""
    return {
        _input_name(layer, role): np.ascontiguousarray(matrix.float32())
        for layer, delta in adapter.items()
        for role, matrix in matrices_by_role(delta).items()
    }


def _absorb_scale(delta: Delta) -> Delta:
    left, right = delta.b.float32()
    a = ONE
    if delta.a is ONE:
        left = left * np.float32(delta.scale)
    else:
        a = Product(Float((delta.a.float64() * delta.scale).astype(np.float32)))
    b = Product(Float(left), None if right is None else Float(right))
    return replace(delta, a=a, b=b, scale=1.0)


def _input_name(layer: str, role: str) -> str:
    return f"kronq:{layer}.{role}"
