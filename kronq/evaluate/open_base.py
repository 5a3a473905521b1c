"""What the adapters of one shape share: a base with their branches in it, factors left open.

All candidates for one adapter differ only in numbers. So the base gets one branch a layer whose
factors are inputs of the graph, and another candidate is another set of arrays to feed: 2.5 MB
for 613,920 parameters, where an export would write the base again.
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
from kronq.onnx.branch.graft import attach
from kronq.onnx.graph.names import Places
from kronq.packed import roles

Frame = tuple[tuple[object, ...], ...]
Feeds = dict[str, NDArray[Any]]


def plain(adapter: Adapter) -> Adapter:
    """The same ΔW in float32: A multiplied out, and the scale in A (in B1 for a plain LoRA)."""
    return replace(adapter, layers={name: _plain(delta) for name, delta in adapter.items()})


def _plain(delta: Delta) -> Delta:
    left, right = delta.b.float32()
    a = ONE
    if delta.a is ONE:
        left = left * np.float32(delta.scale)
    else:
        a = Product(Float((delta.a.float64() * delta.scale).astype(np.float32)))
    b = Product(Float(left), None if right is None else Float(right))
    return replace(delta, a=a, b=b, scale=1.0)


def frame_of(adapter: Adapter) -> Frame:
    """What two plain adapters must share to be fed to one graph; ranks may differ."""
    return tuple(
        (name, delta.shape, delta.a is ONE or delta.a.shape, delta.b.shape, delta.b.right is None)
        for name, delta in adapter.items()
    )


def open_branches(model: ir.Model, adapter: Adapter, places: Places) -> None:
    """Adds the branches of a plain adapter to ``model``, in place, their factors as inputs."""
    values: dict[str, dict[str, ir.Value]] = {}
    for layer, delta in adapter.items():
        for role, matrix in roles(delta).items():
            rows, cols = matrix.shape
            shape: list[int | str] = [rows, cols]
            if delta.b.right is not None and role in ("B1", "B2"):
                shape["B2B1".index(role) // 2] = f"{layer}.rank"
            value = ir.Value(
                name=input_name(layer, role),
                shape=ir.Shape(shape),
                type=ir.TensorType(ir.DataType.FLOAT),
            )
            model.graph.inputs.append(value)
            values.setdefault(layer, {})[role] = value
    attach(model, adapter, places, values)


def feeds_of(adapter: Adapter) -> Feeds:
    """A plain adapter's arrays by the graph's input names."""
    return {
        input_name(layer, role): np.ascontiguousarray(matrix.float32())
        for layer, delta in adapter.items()
        for role, matrix in roles(delta).items()
    }


def input_name(layer: str, role: str) -> str:
    return f"kronq:{layer}.{role}"
