"""The branch form: beside each base layer one node of a local function, and an Add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from kronq import packed
from kronq.errors import StrPath, UnsupportedError
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Coded, Float, Matrix, Quantized
from kronq.onnx.branch.function import DOMAIN, Signature, attributes_of, make_function
from kronq.onnx.graph.names import Places
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import add_constant, succeed

LAYER = "kronq.layer"
MIN_OPSET = 13
INT4_OPSET = 21

_TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int8": ir.DataType.INT8,
    "int4": ir.DataType.INT4,
}


def opset_of(model: ir.Model) -> int:
    """The version of ONNX's own operators that the model uses.

    Raises:
        UnsupportedError: It is older than what a branch is made of.
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


def storable(adapter: Adapter, opset: int) -> Adapter:
    """The same values in types that ONNX reads in place.

    Codes of other widths than ONNX has are widened; entropy-coded levels become float32.

    Before opset 21 ONNX has no int4; codes are int8 then.
    """
    narrow = 4 if opset >= INT4_OPSET else 8

    def widened(matrix: Matrix) -> Matrix:
        if isinstance(matrix, Coded):
            return Float(matrix.float32())
        if isinstance(matrix, Quantized):
            return replace(matrix, bits=narrow if matrix.widest <= narrow else 8, widths=None)
        return matrix

    def product(p: Product) -> Product:
        right = None if p.right is None else widened(p.right)
        return p if p is ONE else replace(p, left=widened(p.left), right=right)

    layers = {n: replace(d, a=product(d.a), b=product(d.b)) for n, d in adapter.items()}
    return replace(adapter, layers=layers)


def graft(
    model: ir.Model, adapter: Adapter, places: Places, file: StrPath, location: str
) -> dict[str, str]:
    """Adds every layer's branch to ``model``, in place.

    Args:
        model: The base.
        adapter: As it is stored in ``file``.
        places: Where each layer goes.
        file: The packed file that the factors are external data in.
        location: What the model calls that file.

    Returns:
        Branch node → its layer.
    """
    located = packed.locate(file)
    taken = set(model.graph.initializers)
    values: dict[str, dict[str, ir.Value]] = {}
    # onnx wants external data in ascending order of offset within a file.
    order = sorted(
        ((at.offset, layer, part) for layer in adapter for part, at in located[layer].items()),
    )
    for _, layer, part in order:
        at = located[layer][part]
        name = _unused(f"{layer}.{part}", taken)
        tensor = ir.ExternalTensor(
            location,
            at.offset,
            at.length,
            _TYPES[at.dtype],
            shape=ir.Shape(at.shape),
            name=name,
            base_dir=str(file).removesuffix(location),
        )
        values.setdefault(layer, {})[part] = add_constant(model.graph, name, tensor)
    return attach(model, adapter, places, values)


def attach(
    model: ir.Model,
    adapter: Adapter,
    places: Places,
    values: Mapping[str, Mapping[str, ir.Value]],
) -> dict[str, str]:
    """Adds every layer's branch to ``model``, in place, its factors being ``values``.

    Args:
        model: The base.
        adapter: Its shapes and how its matrices are stored.
        places: Where each layer goes.
        values: Layer → part (``A``, ``B1``, ``B1.scale`` …) → an initializer or an input.

    Returns:
        Branch node → its layer.
    """
    opset = opset_of(model)
    if any(rank_of(site) is None for sites in places.values() for site in sites):
        ShapeInferencePass()(model)
    functions = _Functions(model, opset)
    nodes = {node.name or "" for node in model.graph.all_nodes()}
    grafted: dict[str, str] = {}
    for layer, delta in adapter.items():
        for site in places[layer]:
            name = _unused(f"{layer}/kronq", nodes)
            _attach(site, delta, layer, name, functions, values[layer])
            grafted[name] = layer
    model.graph.opset_imports[DOMAIN] = 1
    model.ir_version = max(model.ir_version, 10 if opset >= INT4_OPSET else 8)
    return grafted


def _attach(
    site: Site,
    delta: Delta,
    layer: str,
    name: str,
    functions: _Functions,
    values: Mapping[str, ir.Value],
) -> None:
    """Adds one branch behind one node: y becomes y + branch(x)."""
    node = site.node
    x, y = site.x, node.outputs[0]
    if x is None:
        raise UnsupportedError("the base's node has no input", layer=layer, found=node.name)
    rank = rank_of(site)
    flat = rank is None
    before: list[ir.Node] = []
    if flat:
        # A rank that nobody states: the branch works on rows, and takes its shape back from y.
        before.append(_constant_ints((-1, site.shape[1]), f"{name}/rows"))
        before.append(ir.node("Reshape", [x, before[0].outputs[0]], name=f"{name}/flatten"))
        x = before[-1].outputs[0]
        rank = 2
    signature = Signature.of(delta, dtype_of(site), site.part is not None)
    branch = ir.node(
        functions.get(signature),
        [x, *(values[part] for part in signature.parts())],
        attributes_of(delta, signature, rank or 2, site),
        domain=DOMAIN,
        name=name,
        metadata_props={LAYER: layer},
    )
    branch.outputs[0].name = f"{name}/output"
    total = ir.Value(name=f"{name}/sum")
    succeed(y, total, f"{name}/base")
    after: list[ir.Node] = [branch]
    if flat:
        after.append(ir.node("Shape", [y], name=f"{name}/shape"))
        shape = after[-1].outputs[0]
        after.append(ir.node("Reshape", [branch.outputs[0], shape], name=f"{name}/unflatten"))
    add = ir.node("Add", [y, after[-1].outputs[0]], outputs=[total], name=f"{name}/Add")
    if node.graph is None:
        raise UnsupportedError("the base's node is in no graph", layer=layer, found=node.name)
    node.graph.insert_after(node, [*before, *after, add])


def rank_of(site: Site) -> int | None:
    if site.node.op_type == "Gemm":
        return 2
    for value in (site.node.inputs[0], site.node.outputs[0]):
        if value is not None and value.shape is not None:
            return len(value.shape)
    return None


def dtype_of(site: Site) -> ir.DataType:
    """The type that the base computes this layer in."""
    for value in (site.node.inputs[0], site.node.outputs[0]):
        if value is not None and value.dtype is not None:
            return value.dtype
    scales = site.node.inputs[2] if site.node.op_type == "MatMulNBits" else None
    for link in site.chain[::-1]:
        if link.op_type == "Cast":
            return ir.DataType(link.attributes["to"].as_int())
    weight = scales or site.source
    tensor = None if weight is None else weight.const_value
    return ir.DataType.FLOAT if tensor is None else tensor.dtype


class _Functions:
    """The model's branch functions, one for each signature."""

    def __init__(self, model: ir.Model, opset: int) -> None:
        self.model = model
        self.opset = opset
        self.names: dict[Signature, str] = {}

    def get(self, signature: Signature) -> str:
        if signature not in self.names:
            taken = {name for domain, name, _ in self.model.functions if domain == DOMAIN}
            name = _unused(signature.name, taken)
            function = make_function(signature, name, self.opset)
            self.model.functions[function.identifier()] = function
            self.names[signature] = name
        return self.names[signature]


def _constant_ints(numbers: Iterable[int], name: str) -> ir.Node:
    return ir.node("Constant", [], {"value_ints": list(numbers)}, name=name)


def _unused(name: str, taken: set[str]) -> str:
    """``name``, or the first ``name_2``, ``name_3`` … that is free; marks it as taken."""
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free
