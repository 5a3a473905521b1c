"""ONNX models with inner values as outputs, reduced to the nodes that compute them.

The model is changed in memory only. Its weights stay the base's own external data, and everything
that no wanted value depends on, such as the output layer, is never computed.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from kronq.errors import UnsupportedError
from kronq.onnx.base_folder import load_base
from kronq.onnx.graph.sites import Site
from kronq.onnx.guard_base import guard_base
from kronq.onnx.providers import ExecutionTarget
from kronq.onnx.sessions import open_session

if TYPE_CHECKING:
    import onnxruntime as ort


def input_value_name(site: Site, layer: str, model: ir.Model) -> str:
    """Returns the name of the value that a layer multiplies by its weight.

    Raises:
        UnsupportedError: It is an input of the model, or computed in a subgraph, and cannot be an
            output.
    """
    value = site.node.inputs[0]
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.graph is not model.graph:
        raise UnsupportedError("the layer's input cannot be read", layer=layer, found=site.label)
    return str(value.name)


def expose_values(path: Path, names: Collection[str]) -> ir.Model:
    """Returns the base with these values as its first outputs, without unneeded nodes."""
    model = load_base(path)
    values = {v.name: v for node in model.graph for v in node.outputs}
    wanted = [values[name] for name in names]
    needed = _ancestors(wanted)
    # Other outputs of a kept operator stay: some operators require their KV cache outputs.
    kept = [v for v in model.graph.outputs if v.producer() in needed and v not in wanted]
    model.graph.outputs.clear()
    model.graph.outputs.extend([*wanted, *kept])
    RemoveUnusedNodesPass()(model)
    return model


def _ancestors(values: Collection[ir.Value]) -> set[ir.Node | None]:
    """Returns every node that these values depend on."""
    nodes: set[ir.Node | None] = set()
    waiting = [value.producer() for value in values]
    while waiting:
        node = waiting.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        inner = [
            value.producer()
            for attribute in node.attributes.values()
            if attribute.type == ir.AttributeType.GRAPH
            for below in ir.traversal.RecursiveGraphIterator(attribute.as_graph())
            for value in below.inputs
            if value is not None
        ]
        waiting += [v.producer() for v in node.inputs if v is not None] + inner
    return nodes


def open_exposed(
    path: Path, names: Collection[str], target: ExecutionTarget
) -> ort.InferenceSession:
    """Opens the base with these values as outputs, on its own external data.

    Raises:
        KronqError: ONNX Runtime cannot load it, or not on this provider.
    """
    with guard_base(path):
        data = ir.to_proto(expose_values(path, names)).SerializeToString()
    return open_session(path, target, model=data)
