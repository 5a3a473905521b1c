"""Sites: the layers of an ONNX graph that multiply by a constant weight, linear or convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from kronq.onnx.graph.convolution import Convolution, read_convolution
from kronq.onnx.graph.site_names import site_names
from kronq.onnx.graph.trace_constant import QUANTIZERS, trace_constant

_INTEGER = ("MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "QGemm")


@dataclass(frozen=True, eq=False)
class Site:
    """One layer of the base.

    Attributes:
        node: MatMul, Gemm, MatMulNBits or Conv.
        source: Value that holds the stored weight; None when it is quantized.
        chain: Nodes that the stored weight passes before ``node``, in order.
        stored_transposed: Whether the stored weight is [d_out, d_in] (else [d_in, d_out]).
        shape: (d_out, d_in); of a convolution (d_out, d_in·K), with the input channels of a group
            and K positions in the kernel.
        names: Names of the layer in the base, best first.
        part: ``q``, ``k``, ``v``, ``gate`` or ``up`` when the layer is one part of a fused weight.
        share: Where the layer's outputs that are this weight's begin and end, when the layer is
            fused and the base keeps its parts apart; None for all of them.
        joint: Node that puts the outputs of a fused layer's parts together, once there is one.
        codes: Value that holds a quantized weight's codes; None when it is not quantized.
        conv: How a convolution reads its input; None for a linear layer.
    """

    node: ir.Node
    source: ir.Value | None
    chain: tuple[ir.Node, ...]
    stored_transposed: bool
    shape: tuple[int, int]
    names: tuple[str, ...]
    part: str | None = None
    share: tuple[int, int] | None = None
    joint: ir.Node | None = None
    codes: ir.Value | None = None
    conv: Convolution | None = None

    def rows(self, d_out: int) -> tuple[int, int]:
        """Returns where this layer's d_out outputs begin and end among the weight's: q, k, v."""
        if self.share is not None:
            return 0, self.shape[0]
        return part_rows(self.part, d_out, self.shape[0])

    @property
    def last_node(self) -> ir.Node:
        """Node whose output a branch or slot adds to."""
        return self.joint or self.node

    @property
    def label(self) -> str:
        return self.node.name or self.names[0]

    @property
    def weight(self) -> ir.Value | None:
        """Value that two sites share when they are one layer, used twice."""
        return self.source or self.codes or self.node.inputs[1]

    @property
    def weight_name(self) -> str:
        return str(self.weight.name) if self.weight is not None else ""

    @property
    def x(self) -> ir.Value | None:
        """Input of the layer, before it is quantized where it is: a branch reads this one.

        It is more exact, and onnxruntime 1.32 fails on a Reshape after DequantizeLinear (it moves a
        QuantizeLinear of another type after it).
        """
        value = self.node.inputs[0]
        unquantized = value
        for kind in ("DequantizeLinear", "QuantizeLinear"):
            producer = unquantized.producer() if unquantized is not None else None
            if producer is None or producer.op_type != kind:
                return value
            unquantized = producer.inputs[0]
        return unquantized

    @property
    def rank(self) -> int | None:
        """Dimensions of the layer's input; None where the graph does not state them."""
        if self.node.op_type == "Gemm":
            return 2
        if self.conv is not None:
            return 2 + len(self.conv.kernel)
        for value in (self.node.inputs[0], self.node.outputs[0]):
            if value is not None and value.shape is not None:
                return len(value.shape)
        return None

    @property
    def dtype(self) -> ir.DataType:
        """Type that the base computes this layer in."""
        for value in (self.node.inputs[0], self.node.outputs[0]):
            if value is not None and value.dtype is not None:
                return value.dtype
        scales = self.node.inputs[2] if self.node.op_type == "MatMulNBits" else None
        for link in self.chain[::-1]:
            if link.op_type == "Cast":
                return ir.DataType(link.attributes["to"].as_int())
        weight = scales or self.source
        tensor = None if weight is None else weight.const_value
        return ir.DataType.FLOAT if tensor is None else tensor.dtype

    @property
    def rounds_activations(self) -> bool:
        """Whether the base rounds the layer's input to int8."""
        level = self.node.attributes.get_int("accuracy_level", 0)
        return self.x is not self.node.inputs[0] or level == 4


def part_rows(part: str | None, d_out: int, total: int) -> tuple[int, int]:
    """Returns where d_out outputs begin and end in a fused weight of total ones: q, k, v."""
    end = {"k": total - d_out, "v": total, "up": total}.get(part or "", d_out)
    return end - d_out, end


def parts_fit(sizes: Mapping[str, int], total: int) -> bool:
    """Tells whether parts of these sizes can be in one fused weight: k = v ≤ q, and gate = up."""
    if not sizes.keys() - {"gate", "up"}:
        return all(2 * size == total for size in sizes.values())
    keys = {(total - size) / 2 if part == "q" else size for part, size in sizes.items()}
    first = min(keys)
    return len(keys) == 1 and first >= 1 and first % 1 == 0 and total - 2 * first >= first


def find_sites(model: ir.Model) -> list[Site]:
    """Returns every layer of the graph and its subgraphs, in the order of the nodes."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return [site for node in nodes if (site := _site_of(node)) is not None]


def integer_node_types(model: ir.Model) -> list[str]:
    """Returns the types of nodes that multiply quantized activations.

    They take no adapter: they have no float input for a branch, and no float weight to merge into.
    """
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return [node.op_type for node in nodes if node.op_type in _INTEGER]


def _site_of(node: ir.Node) -> Site | None:
    if (node.domain, node.op_type) == ("com.microsoft", "MatMulNBits"):
        shape = (node.attributes["N"].as_int(), node.attributes["K"].as_int())
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"MatMulNBits of the shape {shape}")
        codes = node.inputs[1]
        return Site(node, None, (), True, shape, tuple(site_names(node, codes)), codes=codes)
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm", "Conv"):
        return None
    if node.op_type == "Conv":
        return _convolution_site(node)
    flipped = False
    if node.op_type == "Gemm":
        settings = node.attributes
        if settings.get_int("transA", 0) or settings.get_float("alpha", 1.0) != 1.0:
            return None
        flipped = bool(settings.get_int("transB", 0))
    traced = trace_constant(node.inputs[1])
    if traced is None:
        return None
    source, chain, turned = traced
    tensor = source.const_value
    if tensor is None or len(tensor.shape) != 2:
        return None
    rows, cols = tensor.shape.numpy()
    transposed = flipped != turned
    shape = (rows, cols) if transposed else (cols, rows)
    names = tuple(site_names(node, source))
    if any(link.op_type in QUANTIZERS for link in chain):
        return Site(node, None, chain, transposed, shape, names, codes=source)
    return Site(node, source, chain, transposed, shape, names)


def _convolution_site(node: ir.Node) -> Site | None:
    traced = trace_constant(node.inputs[1])
    if traced is None or traced[0].const_value is None:
        return None
    source, chain, turned = traced
    weight = traced[0].const_value.shape.numpy()
    conv = read_convolution(node, weight)
    if conv is None or turned:
        return None
    shape = (weight[0], math.prod(weight[1:]))
    names = tuple(site_names(node, source))
    if any(link.op_type in QUANTIZERS for link in chain):
        return Site(node, None, chain, True, shape, names, codes=source, conv=conv)
    return Site(node, source, chain, True, shape, names, conv=conv)
