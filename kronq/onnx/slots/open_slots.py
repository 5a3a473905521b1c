"""Opens slots in a graph: every adapted layer gets a branch whose factors are inputs.

The factors are initializers that are inputs as well (ONNX: "default values"), so a program gives
none of them and has the base, or gives all of them, by ONNX Runtime's own ``LoraAdapter``. A group
is computed by a local function of ONNX's operators; or, with fewer nodes and inputs than ONNX can
do it in, by one compiled operator, and then the factors of all groups are one input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from kronq.errors import UnsupportedError
from kronq.onnx.branch.add_branches import opset_of
from kronq.onnx.branch.function_body import DOMAIN
from kronq.onnx.graph.values import add_initializer, move_readers
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.slots.block_offsets import fuse_offsets
from kronq.onnx.slots.block_products import MEANT, fuse_products
from kronq.onnx.slots.pool_inputs import POOL, ROWS, TAGS
from kronq.onnx.slots.record.layout import NO_ADAPTER, layer_id
from kronq.onnx.slots.row_choice import add_row_choice
from kronq.onnx.slots.row_stacks import empty_row_stacks
from kronq.onnx.slots.slot_function import SlotSignature, add_slot_function
from kronq.onnx.slots.slot_groups import OpenGroup, group_layers
from kronq.onnx.slots.slot_inputs import empty_inputs
from kronq.onnx.slots.slot_spec import COMPILED, PACKED, STACKED, SlotGroup, SlotSpec

_ROW_LEAD = 2
"""Dimensions of activations before the last one: [batch, tokens, width]."""
MOST_NODES = 4
"""Nodes to whose outputs one compiled operator adds at most."""
_SUFFIXES = {
    ir.DataType.FLOAT: "",
    ir.DataType.FLOAT16: "_float16",
    ir.DataType.BFLOAT16: "_bfloat16",
}
"""What the names of operators end in, by the type of activations."""


def open_slots(
    base: MatchedBase, platforms: Sequence[str] | None = None, *, pool: bool = False
) -> SlotSpec:
    """Opens a slot at each layer of the base's adapter, in place.

    Args:
        base: A base whose graph may be changed. Its adapter names the layers that get slots; the
            adapter's values are not used.
        platforms: Those that the compiled operator's library is there for; None for ONNX's own
            operators.
        pool: Whether each row of a batch names its adapter.

    Returns:
        The description of the slots.

    Raises:
        UnsupportedError: A layer is used twice, or its activations are of unknown rank or, with a
            compiled operator, of a type that it does not take.
    """
    model, opset = base.model, opset_of(base.model)
    opening = group_layers(base, MOST_NODES if platforms else None)
    kind = "PoolSlots" if pool else "RecordSlots"
    given = (_add_pool_inputs if pool else _add_packed_input)(model) if platforms else None
    row = add_row_choice(model) if pool and not platforms else None
    groups: list[SlotGroup] = []
    for opened in opening:
        if given is None:
            _add_function_node(model, opened, opset, row)
        else:
            _add_compiled_node(kind, given, opened)
        groups.append(opened.group)
    if platforms:
        if {*platforms} <= {*MEANT}:
            fuse_products(model)
        fuse_offsets(model)
    model.graph.opset_imports[DOMAIN] = 1
    model.ir_version = max(model.ir_version, 8)
    # A node is inserted after the last of its layers, but must come before readers of the first.
    model.graph.sort()
    version = COMPILED if platforms else 2 if any(group.conv for group in groups) else 1
    version = version if row is None else STACKED
    kernel = tuple(platforms) if platforms else None
    return SlotSpec(version=version, groups=tuple(groups), kernel=kernel, pool=pool)


def _add_function_node(
    model: ir.Model, opened: OpenGroup, opset: int, row: ir.Value | None
) -> None:
    fused = tuple(site.part is not None for site in opened.sites)
    if row is not None and opened.group.lead != _ROW_LEAD:
        raise UnsupportedError(
            "rows have adapters of their own where activations are [batch, tokens, width]",
            layer=opened.group.name,
            found="a convolution" if opened.group.conv else f"{opened.group.lead + 1} dimensions",
        )
    conv = opened.sites[0].conv
    signature = SlotSignature(opened.targets, fused, opened.dtype, conv, row is not None)
    name = add_slot_function(model, signature, opset)
    inputs = _add_factor_inputs(model, opened.group, by_row=row is not None)
    inputs += [] if row is None else [row]
    _insert_node(opened, name, inputs, _function_attributes(opened))


def _add_compiled_node(kind: str, given: Sequence[ir.Value], opened: OpenGroup) -> None:
    """Adds one compiled operator, whose last inputs say which adapters it computes with."""
    group = opened.group
    if group.conv is not None:
        raise UnsupportedError(
            "the compiled operator takes no convolutions",
            layer=group.name,
            hint="slots with {compiled=False} take them",
        )
    if opened.dtype not in _SUFFIXES:
        raise UnsupportedError(
            "the compiled operator does not compute in this type",
            layer=group.name,
            found=opened.dtype.name.lower(),
            expected=", ".join(dtype.name.lower() for dtype in _SUFFIXES),
            hint="slots with {compiled=False} compute in the base's own type",
        )
    widths = [member.d_out for member in group.members]
    starts = [site.rows(d_out)[0] for site, d_out in zip(opened.sites, widths, strict=True)]
    ids = np.array([layer_id(member.layer) for member in group.members], dtype=np.uint64)
    # kronq/onnx/slots/kernel/slots.c describes the attributes.
    attributes = [
        ir.AttrInt64("d_in", group.d_in),
        ir.AttrInt64s("layer", ids.view(np.int64).tolist()),
        ir.AttrInt64s("target", opened.targets),
        ir.AttrInt64s("start", starts),
        ir.AttrInt64s("d_out", widths),
    ]
    name = f"{kind}_{len(opened.nodes)}{_SUFFIXES[opened.dtype]}"
    _insert_node(opened, name, given, attributes)


def _insert_node(
    opened: OpenGroup, op_type: str, inputs: Sequence[ir.Value], attributes: Sequence[ir.Attr]
) -> None:
    """Inserts a group's node after the last of its layers; its outputs replace theirs."""
    name, last = opened.group.name, opened.nodes[-1]
    if last.graph is None:
        raise UnsupportedError("the base's node is in no graph", layer=name)
    bases = [node.outputs[0] for node in opened.nodes]
    totals = [ir.Value(name=f"{y.name}/kronq") for y in bases]
    for y, total in zip(bases, totals, strict=True):
        move_readers(y, total, f"{y.name}/base")
    node = ir.Node(
        DOMAIN,
        op_type,
        [opened.x, *bases, *inputs],
        attributes,
        outputs=totals,
        name=f"{name}/kronq",
    )
    last.graph.insert_after(last, node)


def _function_attributes(opened: OpenGroup) -> list[ir.Attr]:
    """Returns each member's output shape and, in a fused weight, the padding around its part."""
    if opened.group.conv is not None:
        return []
    lead = [0] * opened.group.lead
    attributes: dict[str, list[int]] = {}
    for i, (member, site) in enumerate(zip(opened.group.members, opened.sites, strict=True)):
        attributes[f"shape_{i}"] = [*lead, member.d_out]
        if site.part is not None:
            start, stop = site.rows(member.d_out)
            attributes[f"place_{i}"] = [*lead, start, *lead, site.shape[0] - stop]
    return [ir.AttrInt64s(key, value) for key, value in attributes.items()]


def _add_packed_input(model: ir.Model) -> list[ir.Value]:
    """Adds the input that holds a whole adapter; its default is none."""
    value = add_initializer(model.graph, PACKED, ir.Tensor(NO_ADAPTER), [f"{PACKED}:0"])
    model.graph.inputs.append(value)
    return [value]


def _add_pool_inputs(model: ir.Model) -> list[ir.Value]:
    """Adds the pool, and each row's place in it. They have no defaults.

    onnxruntime-genai ignores what it is given for an input that has one, and would run the base.
    """
    values = []
    for name, dtype in (
        (POOL, ir.DataType.UINT8),
        (ROWS, ir.DataType.INT64),
        (TAGS, ir.DataType.INT64),
    ):
        free = ir.Shape([f"{POOL if name == POOL else ROWS}:0"])
        values.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=free))
    model.graph.inputs.extend(values)
    return values


def _add_factor_inputs(model: ir.Model, group: SlotGroup, *, by_row: bool) -> list[ir.Value]:
    """Adds a group's factors as inputs with defaults, in the order of the function's inputs."""
    defaults = empty_row_stacks(group) if by_row else empty_inputs(group)
    values = []
    for name in group.input_names:
        tensor = ir.Tensor(np.asarray(defaults[name]))
        free = [f"{name}:{axis}" for axis in range(len(tensor.shape))]
        shape = None if tensor.dtype == ir.DataType.INT64 else free
        values.append(add_initializer(model.graph, name, tensor, shape))
        model.graph.inputs.append(values[-1])
    return values
