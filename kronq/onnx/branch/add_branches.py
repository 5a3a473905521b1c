"""Adds branches to a graph: beside each base layer one node of a local function, and an Add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from kronq.errors import UnsupportedError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.onnx.branch.branch_function import branch_attributes, make_branch_function
from kronq.onnx.branch.branch_signature import Signature
from kronq.onnx.branch.dora_gain import gain_of, refuse_shared, scale_inputs, scale_outputs
from kronq.onnx.branch.function_body import DOMAIN
from kronq.onnx.graph.join_parts import join_parts
from kronq.onnx.graph.layer_match import Matches
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import move_readers, unused_name
from kronq.onnx.merge.dora import scales_inputs

LAYER = "kronq.layer"
"""Metadata key of a branch node that holds its layer's name."""
MIN_OPSET = 13
INT4_OPSET = 21


def opset_of(model: ir.Model) -> int:
    """Returns the version of ONNX's own operators that the model uses.

    Raises:
        UnsupportedError: It is older than the operators of a branch.
    """
    imports = model.graph.opset_imports
    version = imports.get("", imports.get("ai.onnx", 0))
    if version < MIN_OPSET:
        raise UnsupportedError(
            "the base's opset is too old",
            found=version,
            expected=f"{MIN_OPSET} or later",
            hint="export the base again, or convert it with onnx.version_converter",
        )
    return int(version)


def add_branches(
    model: ir.Model,
    adapter: Adapter,
    matches: Matches,
    factors: Mapping[str, Mapping[str, ir.Value]],
) -> dict[str, str]:
    """Adds every layer's branch to ``model``, in place.

    Args:
        model: The base.
        adapter: Shapes of the layers, and how their matrices are stored.
        matches: Layer → its sites in ``model``.
        factors: Layer → part (``A``, ``B1``, ``B1.scale`` …) → an initializer or an input.

    Returns:
        Branch node → its layer.
    """
    opset = opset_of(model)
    if any(site.rank is None for sites in matches.values() for site in sites):
        ShapeInferencePass()(model)
    for layer, delta in adapter.items():
        if delta.magnitude is not None:
            refuse_shared(matches[layer], layer)
    matches = join_parts(model, matches)
    functions = _BranchFunctions(model, opset)
    taken = {node.name or "" for node in model.graph.all_nodes()}
    branches: dict[str, str] = {}
    for layer, delta in adapter.items():
        for site in matches[layer]:
            name = unused_name(f"{layer}/kronq", taken)
            gain = gain_of(site, delta, layer) if delta.magnitude is not None else None
            if gain is not None and scales_inputs(delta):
                scale_inputs(model, site, gain, name)
            add = _add_branch(site, delta, layer, name, functions, factors[layer])
            if gain is not None and not scales_inputs(delta):
                scale_outputs(model, site, delta, gain, add, name)
            branches[name] = layer
    model.graph.opset_imports[DOMAIN] = 1
    model.ir_version = max(model.ir_version, 10 if opset >= INT4_OPSET else 8)
    return branches


def _add_branch(
    site: Site,
    delta: Delta,
    layer: str,
    name: str,
    functions: _BranchFunctions,
    factors: Mapping[str, ir.Value],
) -> ir.Node:
    """Adds one branch to one node: y becomes y + branch(x). Returns the node of the sum."""
    node, x, rank = site.last_node, site.x, site.rank
    y = node.outputs[0]
    if x is None:
        raise UnsupportedError("the base's node has no input", layer=layer, found=node.name)
    if node.graph is None:
        raise UnsupportedError("the base's node is in no graph", layer=layer, found=node.name)
    before: list[ir.Node] = []
    if rank is None:
        # Without a stated rank the branch works on rows, and takes its shape back from y.
        before = _flatten(x, site.shape[1], name)
        x = before[-1].outputs[0]
    signature = Signature.of(delta, site)
    branch = ir.node(
        functions.name_of(signature),
        [x, *(factors[part] for part in signature.inputs())],
        branch_attributes(delta, signature, rank or 2, site),
        domain=DOMAIN,
        name=name,
        metadata_props={LAYER: layer},
    )
    branch.outputs[0].name = f"{name}/output"
    total = ir.Value(name=f"{name}/sum")
    move_readers(y, total, f"{name}/base")
    after = [branch]
    if rank is None:
        after += _unflatten(branch.outputs[0], y, name)
    add = ir.node("Add", [y, after[-1].outputs[0]], outputs=[total], name=f"{name}/Add")
    node.graph.insert_after(node, [*before, *after, add])
    return add


def _flatten(x: ir.Value, width: int, name: str) -> list[ir.Node]:
    shape = _constant_ints((-1, width), f"{name}/rows")
    return [shape, ir.node("Reshape", [x, shape.outputs[0]], name=f"{name}/flatten")]


def _unflatten(rows: ir.Value, y: ir.Value, name: str) -> list[ir.Node]:
    shape = ir.node("Shape", [y], name=f"{name}/shape")
    return [shape, ir.node("Reshape", [rows, shape.outputs[0]], name=f"{name}/unflatten")]


def _constant_ints(numbers: Iterable[int], name: str) -> ir.Node:
    return ir.node("Constant", [], {"value_ints": list(numbers)}, name=name)


class _BranchFunctions:
    """The model's branch functions, one for each signature, made when first asked for."""

    def __init__(self, model: ir.Model, opset: int) -> None:
        self._model = model
        self._opset = opset
        self._names: dict[Signature, str] = {}

    def name_of(self, signature: Signature) -> str:
        if signature not in self._names:
            taken = {name for domain, name, _ in self._model.functions if domain == DOMAIN}
            name = unused_name(signature.name, taken)
            function = make_branch_function(signature, name, self._opset)
            self._model.functions[function.identifier()] = function
            self._names[signature] = name
        return self._names[signature]
