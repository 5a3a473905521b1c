"""Where an adapter can go: every place in an ONNX graph that multiplies by a constant matrix."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"

_WEIGHT = re.compile(r"(?:[./](?:MatMul|Gemm|linear|Linear))?[./](?:weight|kernel)$")
_QUANTIZED = re.compile(r"(?:_DQ)?_(?:quantized|Q[48])$")
"""What onnxruntime's quantizers append to a weight's name."""
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_PASSED = ("Transpose", "Cast", "Identity", *_QUANTIZERS)
_INTEGER = ("MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "QGemm")


@dataclass(frozen=True, eq=False)
class Site:
    """One linear layer of the base.

    Attributes:
        node: MatMul, Gemm or MatMulNBits.
        source: The value that holds the stored weight; None when it is quantized.
        chain: The nodes that the stored weight passes before ``node``, in order.
        stored_transposed: Whether the stored weight is [d_out, d_in] (else [d_in, d_out]).
        shape: (d_out, d_in).
        names: What the base calls it, as found.
        part: ``q``, ``k`` or ``v`` when the layer is one third of a fused weight.
        codes: The value that holds a quantized weight's codes; None when it is not quantized.
    """

    node: ir.Node
    source: ir.Value | None
    chain: tuple[ir.Node, ...]
    stored_transposed: bool
    shape: tuple[int, int]
    names: tuple[str, ...]
    part: str | None = None
    codes: ir.Value | None = None

    def rows(self, d_out: int) -> tuple[int, int]:
        """First and last output of this layer among the weight's, q before k before v."""
        total = self.shape[0]
        start = {"q": 0, "k": total - 2 * d_out, "v": total - d_out}.get(self.part or "q", 0)
        return start, start + d_out

    @property
    def label(self) -> str:
        return self.node.name or self.names[0]

    @property
    def weight(self) -> ir.Value | None:
        """What two sites share when they are the same layer, used twice."""
        return self.source or self.codes or self.node.inputs[1]

    @property
    def x(self) -> ir.Value | None:
        """What a branch reads: the node's input before it was quantized, where it is.

        That is nearer to the truth, and onnxruntime 1.32 fails on a Reshape behind
        DequantizeLinear (it moves a QuantizeLinear of another type behind it).
        """
        value = self.node.inputs[0]
        found = value
        for kind in ("DequantizeLinear", "QuantizeLinear"):
            producer = found.producer() if found is not None else None
            if producer is None or producer.op_type != kind:
                return value
            found = producer.inputs[0]
        return found

    @property
    def weight_name(self) -> str:
        return str(self.weight.name) if self.weight is not None else ""


def find_sites(model: ir.Model) -> list[Site]:
    """Every linear layer of the graph and its subgraphs, in the order they are found."""
    found = []
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        site = _site(node)
        if site is not None:
            found.append(site)
    return found


def integer_nodes(model: ir.Model) -> list[str]:
    """Nodes that multiply quantized activations: no x for a branch, and no float W to add to."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return [node.op_type for node in nodes if node.op_type in _INTEGER]


def _site(node: ir.Node) -> Site | None:
    if (node.domain, node.op_type) == ("com.microsoft", "MatMulNBits"):
        shape = (node.attributes["N"].as_int(), node.attributes["K"].as_int())
        codes = node.inputs[1]
        return Site(node, None, (), True, shape, tuple(_names(node, codes)), codes=codes)
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
        return None
    flipped = False
    if node.op_type == "Gemm":
        settings = node.attributes
        if settings.get_int("transA", 0) or settings.get_float("alpha", 1.0) != 1.0:
            return None
        flipped = bool(settings.get_int("transB", 0))
    traced = _trace(node.inputs[1])
    if traced is None:
        return None
    source, chain, turned = traced
    tensor = source.const_value
    if tensor is None or len(tensor.shape) != 2:
        return None
    rows, cols = tensor.shape.numpy()
    transposed = flipped != turned
    shape = (rows, cols) if transposed else (cols, rows)
    names = tuple(_names(node, source))
    if any(link.op_type in _QUANTIZERS for link in chain):
        return Site(node, None, chain, transposed, shape, names, codes=source)
    return Site(node, source, chain, transposed, shape, names)


def _trace(value: ir.Value | None) -> tuple[ir.Value, tuple[ir.Node, ...], bool] | None:
    """From a node's input back to the constant it comes from, if nothing but these is between."""
    chain: list[ir.Node] = []
    turned = False
    while value is not None:
        producer = value.producer()
        if producer is None:
            return (value, tuple(chain[::-1]), turned) if value.is_initializer() else None
        if producer.op_type == "Constant" and value.const_value is not None:
            return value, tuple(chain[::-1]), turned
        if producer.op_type not in _PASSED or producer.domain not in ("", "ai.onnx"):
            return None
        if producer.op_type == "Transpose":
            if list(producer.attributes.get_ints("perm", [1, 0])) != [1, 0]:
                return None
            turned = not turned
        chain.append(producer)
        value = producer.inputs[0]
    return None


def _names(node: ir.Node, weight: ir.Value | None) -> Iterator[str]:
    """The layer's names in this base: of the scope that made the node, and of the weight."""
    scopes = node.metadata_props.get(SCOPES)
    if scopes:
        try:
            path = ast.literal_eval(scopes)[-2]
        except (ValueError, SyntaxError, IndexError, TypeError):
            path = ""
        if path:
            # The exporter itself says which module this was: a tied weight's name may not.
            yield str(path)
            return
    if node.name:
        scope = node.name.strip("/")
        yield scope.rsplit("/", 1)[0] if "/" in scope else scope
    if weight is not None and weight.name:
        yield _WEIGHT.sub("", _QUANTIZED.sub("", weight.name))
