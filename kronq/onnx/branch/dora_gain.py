"""DoRA beside a layer of the base: its gain multiplies the layer's outputs, or its inputs.

(g · (W + ΔW)) x + bias is g · (W x + bias + ΔW x) + (1 − g) · bias where g is one of outputs, and
(W + ΔW) (g · x) + bias where it is one of input channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from kronq.errors import UnsupportedError
from kronq.model.delta import F64, Delta
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import add_initializer, move_readers
from kronq.onnx.merge.dora import scales_inputs, stored_gain
from kronq.onnx.merge.stored_blocks import read_blocks
from kronq.onnx.merge.stored_update import read_float64, stored_range, stored_update


def refuse_shared(sites: Sequence[Site], layer: str) -> None:
    """Refuses a fused layer whose parts the base keeps apart: each has its own bias.

    Raises:
        UnsupportedError: It is one.
    """
    if any(site.share is not None for site in sites):
        raise _fused_error(layer)


def _fused_error(layer: str) -> UnsupportedError:
    return UnsupportedError(
        "a branch with DoRA does not go beside a fused layer",
        layer=layer,
        hint="{form=merged} takes it",
    )


def gain_of(site: Site, delta: Delta, layer: str) -> F64:
    """Returns a layer's g [d_out] or [d_in], from the base's weight.

    Raises:
        UnsupportedError: The base keeps the layer in one weight with others.
    """
    if site.part is not None and scales_inputs(delta):
        raise _fused_error(layer)
    if site.source is not None and site.source.const_value is not None:
        weight = read_float64(site.source.const_value)
    else:
        weight = read_blocks(site).dense()
    adapted = weight[stored_range(site, delta)] + stored_update(site, delta)
    return stored_gain(site, delta, adapted).reshape(-1)


def scale_inputs(model: ir.Model, site: Site, gain: F64, name: str) -> None:
    """Makes the layer's node read g · x, in place."""
    node = site.node
    x = node.inputs[0]
    groups = site.conv.groups if site.conv is not None else 1
    factor = _constant(model, np.tile(gain, groups), site, f"{name}/gain")
    scaled = ir.node("Mul", [x, factor], name=f"{name}/scale")
    if x is not None:
        scaled.outputs[0].shape, scaled.outputs[0].type = x.shape, x.type
    scaled.outputs[0].name = f"{name}/scaled"
    if node.graph is not None:
        node.graph.insert_before(node, scaled)
    node.replace_input_with(0, scaled.outputs[0])


def scale_outputs(
    model: ir.Model, site: Site, delta: Delta, gain: F64, add: ir.Node, name: str
) -> None:
    """Makes readers of the layer and its branch read g · y + (1 − g) · bias, in place.

    Args:
        model: The base.
        site: The layer's place in it.
        delta: The layer.
        gain: g [d_out].
        add: The node that adds the branch.
        name: Front of new names.
    """
    whole = np.ones(site.shape[0])
    whole[slice(*site.rows(delta.shape[0]))] = gain
    total, after = add.outputs[0], ir.Value(name=f"{name}/gained")
    move_readers(total, after, f"{name}/before")
    factor = _constant(model, whole, site, f"{name}/gain")
    bias = _bias(site)
    if bias is None:
        nodes = [ir.node("Mul", [total, factor], outputs=[after], name=f"{name}/scale")]
    else:
        scaled = ir.node("Mul", [total, factor], name=f"{name}/scale")
        beta = site.node.attributes.get_float("beta", 1.0)
        rest = _constant(model, (1 - whole) * beta, site, f"{name}/rest", flat=True)
        nodes = [scaled, ir.node("Mul", [bias, rest], name=f"{name}/bias")]
        if site.conv is not None:
            sizes = [-1, *[1] * len(site.conv.kernel)]
            shape = ir.node("Constant", [], {"value_ints": sizes}, name=f"{name}/channels")
            shaped = [nodes[-1].outputs[0], shape.outputs[0]]
            nodes += [shape, ir.node("Reshape", shaped, name=f"{name}/shaped")]
        sum_of = [scaled.outputs[0], nodes[-1].outputs[0]]
        nodes.append(ir.node("Add", sum_of, outputs=[after], name=f"{name}/shift"))
    if add.graph is not None:
        add.graph.insert_after(add, nodes)


def _bias(site: Site) -> ir.Value | None:
    """Returns the bias that the layer's own node adds; None without one."""
    if site.node.op_type == "MatMul":
        return None
    index = 5 if site.node.op_type == "MatMulNBits" else 2
    return site.node.inputs[index] if index < len(site.node.inputs) else None


def _constant(
    model: ir.Model, values: F64, site: Site, name: str, *, flat: bool = False
) -> ir.Value:
    """Adds numbers for each channel, in the type that the base computes in."""
    spatial = 0 if flat or site.conv is None else len(site.conv.kernel)
    array = values.reshape(-1, *[1] * spatial).astype(site.dtype.numpy())
    return add_initializer(model.graph, name, ir.Tensor(array, dtype=site.dtype))
