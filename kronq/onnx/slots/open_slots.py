"""The slots form: every adapted layer gets a branch whose factors are the graph's to be given.

The factors are initializers that are inputs as well (ONNX: "default values"), so a program gives
none of them and has the base, or gives all of them, by ONNX Runtime's own ``LoraAdapter``. What a
group computes is a local function of ONNX's operators; or, with fewer nodes and inputs than ONNX
can do it in, one compiled operator, and then the factors of all groups are one input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from kronq.errors import UnsupportedError
from kronq.model.adapter import Adapter
from kronq.onnx.branch.function import DOMAIN, Body
from kronq.onnx.branch.graft import dtype_of, opset_of, rank_of
from kronq.onnx.graph.names import Places
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import add_constant, succeed
from kronq.onnx.slots.inputs import nothing
from kronq.onnx.slots.packed_input import NOTHING
from kronq.onnx.slots.spec import PACKED, Group, Member, Slots

MOST_NODES = 4
"""Whose outputs one compiled operator adds to."""


def open_slots(
    model: ir.Model, adapter: Adapter, places: Places, kernel: str | None = None
) -> Slots:
    """Opens a slot at each layer of ``adapter``, in place.

    Args:
        model: The base.
        adapter: Whose layers get slots. Its values are not used.
        places: Where each layer goes.
        kernel: The library of the compiled operator; None for ONNX's own operators.

    Raises:
        UnsupportedError: A layer that is used twice, activations of unknown rank, or for the
            compiled operator other ones than of float32.
    """
    opset = opset_of(model)
    for layer, sites in places.items():
        if len(sites) != 1:
            raise UnsupportedError(
                "a layer that the base uses twice can have no slot",
                layer=layer,
                hint="use {form=branch}",
            )
    if any(rank_of(sites[0]) is None for sites in places.values()):
        ShapeInferencePass()(model)
    shared: dict[tuple[ir.Value | None, ir.DataType], list[tuple[str, Site]]] = {}
    for layer in adapter:
        site = places[layer][0]
        shared.setdefault((site.x, dtype_of(site)), []).append((layer, site))
    packed = _packed(model) if kernel else None
    groups: list[Group] = []
    for (_, dtype), members in shared.items():
        for some in _portions(members) if kernel else [members]:
            groups.append(_open(model, dtype, some, adapter, opset, packed, len(groups)))
    model.graph.opset_imports[DOMAIN] = 1
    model.ir_version = max(model.ir_version, 8)
    # A group stands behind the last of its layers, and must be before what reads the first.
    model.graph.sort()
    return Slots(groups=tuple(groups), kernel=kernel)


def _open(
    model: ir.Model,
    dtype: ir.DataType,
    members: list[tuple[str, Site]],
    adapter: Adapter,
    opset: int,
    packed: ir.Value | None,
    index: int,
) -> Group:
    name, first = members[0]
    # As it is now: where a layer reads another's output, that is the sum with its slot by now.
    x, rank = first.x, rank_of(first)
    if x is None or rank is None:
        raise UnsupportedError(
            "activations of unknown rank can have no slot", layer=name, hint="use {form=branch}"
        )
    group = Group(
        name=name,
        d_in=first.shape[1],
        lead=rank - 1,
        members=tuple(Member(layer=n, d_out=adapter[n].shape[0]) for n, _ in members),
    )
    # The parts of one fused weight add to the same value, one after another.
    nodes = list({site.node: None for _, site in members})
    summed = [nodes.index(site.node) for _, site in members]
    bases = [node.outputs[0] for node in nodes]
    totals = [ir.Value(name=f"{y.name}/kronq") for y in bases]
    for y, total in zip(bases, totals, strict=True):
        succeed(y, total, f"{y.name}/base")
    sites = [site for _, site in members]
    if packed is None:
        kind = _function(model, summed, [s.part is not None for s in sites], dtype, opset)
        values, attributes = _inputs(model, group), _places(group, sites)
    elif dtype == ir.DataType.FLOAT:
        kind, values = f"PackedSlots_{len(bases)}", [packed]
        attributes = _targets(group, sites, summed, index)
    else:
        raise UnsupportedError(
            "the compiled operator computes in float32",
            layer=name,
            found=dtype.name.lower(),
            hint="slots without {kernel} compute in what the base does",
        )
    node = ir.Node(
        DOMAIN, kind, [x, *bases, *values], attributes, outputs=totals, name=f"{name}/kronq"
    )
    graph = nodes[-1].graph
    if graph is None:
        raise UnsupportedError("the base's node is in no graph", layer=name)
    graph.insert_after(nodes[-1], node)
    return group


def _places(group: Group, sites: Sequence[Site]) -> list[ir.Attr]:
    """The function's attributes: the shape of each member's part, and its place in a fused one."""
    lead = [0] * group.lead
    told: dict[str, list[int]] = {}
    for i, (member, site) in enumerate(zip(group.members, sites, strict=True)):
        told[f"shape_{i}"] = [*lead, member.d_out]
        if site.part is not None:
            start, stop = site.rows(member.d_out)
            told[f"place_{i}"] = [*lead, start, *lead, site.shape[0] - stop]
    return [ir.AttrInt64s(key, value) for key, value in told.items()]


def _targets(
    group: Group, sites: Sequence[Site], summed: Sequence[int], index: int
) -> list[ir.Attr]:
    """The compiled operator's attributes, as ``kronq/onnx/slots/kernel/slots.c`` says them."""
    widths = [member.d_out for member in group.members]
    starts = [site.rows(width)[0] for site, width in zip(sites, widths, strict=True)]
    return [
        ir.AttrInt64("group", index),
        ir.AttrInt64("d_in", group.d_in),
        ir.AttrInt64s("target", summed),
        ir.AttrInt64s("start", starts),
        ir.AttrInt64s("d_out", widths),
    ]


def _portions(members: list[tuple[str, Site]]) -> list[list[tuple[str, Site]]]:
    """What one compiled operator takes at most: the layers of so many nodes."""
    nodes = list({site.node: None for _, site in members})
    sets = [set(nodes[i : i + MOST_NODES]) for i in range(0, len(nodes), MOST_NODES)]
    return [[member for member in members if member[1].node in some] for some in sets]


def _packed(model: ir.Model) -> ir.Value:
    """The whole adapter as one input, whose default is none."""
    value = add_constant(model.graph, PACKED, ir.Tensor(NOTHING), [f"{PACKED}:0"])
    model.graph.inputs.append(value)
    return value


def _inputs(model: ir.Model, group: Group) -> list[ir.Value]:
    """The group's factors as inputs with defaults, in the order of the function's parameters."""
    defaults = nothing(group)
    values = []
    for name in group.inputs:
        tensor = ir.Tensor(np.asarray(defaults[name]))
        free = [f"{name}:{axis}" for axis in range(len(tensor.shape))]
        shape = None if tensor.dtype == ir.DataType.INT64 else free
        values.append(add_constant(model.graph, name, tensor, shape))
        model.graph.inputs.append(values[-1])
    return values


def _function(
    model: ir.Model, summed: Sequence[int], fused: Sequence[bool], dtype: ir.DataType, opset: int
) -> str:
    """The name of a group's function: made, if no group before had the same.

    Args:
        model: Gets it.
        summed: Which of the base's outputs each member adds to.
        fused: Whether each member is a part of that output.
        dtype: What the base computes in; slots compute in float32.
        opset: Of the body.
    """
    name = f"KronSlots_{len(summed)}"
    name += f"_fused_{'_'.join(map(str, summed))}" if any(fused) else ""
    name += "" if dtype == ir.DataType.FLOAT else f"_{dtype.name.lower()}"
    if (DOMAIN, name, "") in model.functions:
        return name
    body, count = Body(), len(summed)
    x, cut, b2, ranks = (ir.Value(name=key) for key in ("X", "shape", "B2", "ranks"))
    bases = [ir.Value(name=f"Y_{i}") for i in range(max(summed) + 1)]
    factors = [(ir.Value(name=f"A_{i}"), ir.Value(name=f"B1_{i}")) for i in range(count)]
    attributes: list[str] = []

    def told(key: str) -> ir.Value:
        attributes.append(key)
        return body.attribute("value_ints", key, ir.AttributeType.INTS)

    h = x if dtype == ir.DataType.FLOAT else body.op("Cast", x, to=int(ir.DataType.FLOAT))
    h = body.op("MatMul", body.op("Reshape", h, cut), b2)
    outs = list(bases)
    for i, part in enumerate(body.split(h, ranks, count) if count > 1 else [h]):
        a, b1 = factors[i]
        h = body.op("MatMul", body.op("MatMul", a, part), b1)
        h = body.op("Reshape", h, told(f"shape_{i}"))
        if fused[i]:
            h = body.op("Pad", h, told(f"place_{i}"))
        if dtype != ir.DataType.FLOAT:
            h = body.op("Cast", h, to=int(dtype))
        outs[summed[i]] = body.op("Add", outs[summed[i]], h)
    for i, out in enumerate(outs):
        out.name = f"Z_{i}"
    inputs = [x, *bases, cut, b2, *([ranks] if count > 1 else [])]
    inputs += [value for pair in factors for value in pair]
    graph = ir.Graph(inputs, outs, nodes=body.nodes, opset_imports={"": opset}, name=name)
    ints = ir.AttributeType.INTS
    function = ir.Function(
        DOMAIN, name, graph=graph, attributes=[ir.Attr(key, ints, None) for key in attributes]
    )
    model.functions[function.identifier()] = function
    return name
