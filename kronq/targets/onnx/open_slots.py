"""The slots form: every adapted layer gets a branch whose factors are the graph's to be given.

The factors are initializers that are inputs as well (ONNX: "default values"), so a program gives
none of them and has the base, or gives all of them, by ONNX Runtime's own ``LoraAdapter``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from kronq.adapter import Adapter
from kronq.errors import UnsupportedError
from kronq.targets.onnx.branch import dtype_of, opset_of, rank_of
from kronq.targets.onnx.function import DOMAIN, Body
from kronq.targets.onnx.names import Places
from kronq.targets.onnx.sites import Site
from kronq.targets.onnx.slots import Group, Member, Slots, nothing
from kronq.targets.onnx.values import add_constant, succeed


def open_slots(model: ir.Model, adapter: Adapter, places: Places) -> Slots:
    """Opens a slot at each layer of ``adapter``, in place.

    Args:
        model: The base.
        adapter: Whose layers get slots. Its values are not used.
        places: Where each layer goes.

    Raises:
        UnsupportedError: A layer that is used twice, or activations of unknown rank.
    """
    opset = opset_of(model)
    for layer, sites in places.items():
        if len(sites) != 1:
            raise UnsupportedError(
                "a layer that the base uses twice can have no slot",
                layer=layer,
                hint="use --form branch",
            )
    if any(rank_of(sites[0]) is None for sites in places.values()):
        ShapeInferencePass()(model)
    shared: dict[tuple[ir.Value | None, ir.DataType], list[tuple[str, Site]]] = {}
    for layer in adapter:
        site = places[layer][0]
        shared.setdefault((site.x, dtype_of(site)), []).append((layer, site))
    groups = []
    for (_, dtype), members in shared.items():
        groups.append(_open(model, dtype, members, adapter, opset))
    model.graph.opset_imports[DOMAIN] = 1
    model.ir_version = max(model.ir_version, 8)
    # A group stands behind the last of its layers, and must be before what reads the first.
    model.graph.sort()
    return Slots(groups=tuple(groups))


def _open(
    model: ir.Model,
    dtype: ir.DataType,
    members: list[tuple[str, Site]],
    adapter: Adapter,
    opset: int,
) -> Group:
    name, first = members[0]
    # As it is now: where a layer reads another's output, that is the sum with its slot by now.
    x, rank = first.x, rank_of(first)
    if x is None or rank is None:
        raise UnsupportedError(
            "activations of unknown rank can have no slot", layer=name, hint="use --form branch"
        )
    group = Group(
        name=name,
        d_in=first.shape[1],
        lead=rank - 1,
        members=tuple(Member(layer=n, d_out=adapter[n].shape[0]) for n, _ in members),
    )
    values = _inputs(model, group)
    # The parts of one fused weight add to the same value, one after another.
    nodes = list({site.node: None for _, site in members})
    summed = [nodes.index(site.node) for _, site in members]
    fused = [site.part is not None for _, site in members]
    lead = [0] * group.lead
    told: dict[str, list[int]] = {}
    for i, (member, (_, site)) in enumerate(zip(group.members, members, strict=True)):
        told[f"shape_{i}"] = [*lead, member.d_out]
        if fused[i]:
            start, stop = site.rows(member.d_out)
            told[f"place_{i}"] = [*lead, start, *lead, site.shape[0] - stop]
    bases = [node.outputs[0] for node in nodes]
    totals = [ir.Value(name=f"{y.name}/kronq") for y in bases]
    for y, total in zip(bases, totals, strict=True):
        succeed(y, total, f"{y.name}/base")
    node = ir.Node(
        DOMAIN,
        _function(model, summed, fused, dtype, opset),
        [x, *bases, *values],
        [ir.AttrInt64s(key, value) for key, value in told.items()],
        outputs=totals,
        name=f"{name}/kronq",
    )
    graph = nodes[-1].graph
    if graph is None:
        raise UnsupportedError("the base's node is in no graph", layer=name)
    graph.insert_after(nodes[-1], node)
    return group


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
