"""The merged form: W + ΔW in the base's own weights. Nothing is left to do at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from kronq.errors import UnsupportedError
from kronq.model.adapter import Adapter
from kronq.model.delta import F64, Delta
from kronq.onnx.graph.names import Places
from kronq.onnx.graph.sites import Site
from kronq.onnx.graph.values import add_constant
from kronq.onnx.merge.stored_blocks import inputs, read, tensors
from kronq.onnx.merge.weight_blocks import Blocks, changed


@dataclass
class Merged:
    """What was done to the base.

    Attributes:
        weights: Layer → the initializer that holds its weight, or its codes, now.
        lost: Layer → ‖stored change − ΔW‖².
        wanted: Layer → ‖ΔW‖². Of float weights both are known once the model is saved.
    """

    weights: dict[str, str] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    wanted: dict[str, float] = field(default_factory=dict)

    def count(self, layer: str, error: F64, change: F64) -> None:
        self.lost[layer] = float(np.square(error).sum())
        self.wanted[layer] = float(np.square(change).sum())

    def kept(self) -> tuple[float, dict[str, float]]:
        """1 − ‖stored change − ΔW‖² ÷ ‖ΔW‖², over all layers and of each."""
        shares = {n: 1 - self.lost[n] / w if w else 1.0 for n, w in self.wanted.items()}
        total = sum(self.wanted.values())
        return 1 - sum(self.lost.values()) / total if total else 1.0, shares


def merge(model: ir.Model, adapter: Adapter, places: Places) -> Merged:
    """Replaces every adapted weight of ``model``, in place.

    Sums of float weights are made when the model is saved, one weight at a time, in float64, and
    rounded to the base's dtype; quantized weights are rounded again in their own blocks at once. A
    weight that others use too (a tied embedding) is left to them as it was.

    Raises:
        UnsupportedError: A base weight is quantized in a way that takes no ΔW.
    """
    merged = Merged()
    done: set[str] = set()
    for layer, delta in adapter.items():
        sites = places[layer]
        if layer in done:
            continue
        if sites[0].codes is not None:
            together = sharing(layer, adapter, places)
            _requantize(model, adapter, places, together, merged)
            done.update(together)
            continue
        source = sites[0].source
        if source is None or source.const_value is None:
            raise UnsupportedError("a base weight is not a constant", layer=layer)
        tensor = _summed(source.const_value, layer, delta, sites[0], merged)
        used = {(use.node, use.idx) for use in source.uses()}
        ours = {_entry(site) for site in sites}
        if source.is_initializer() and used == ours and not source.is_graph_input():
            source.const_value = tensor
            merged.weights[layer] = str(source.name)
        elif sites[0].part is not None:
            raise UnsupportedError(
                "a fused weight that others use too cannot take ΔW",
                layer=layer,
                found=str(source.name),
                hint="use {form=branch}",
            )
        else:
            merged.weights[layer] = _untie(model, layer, sites, tensor)
    RemoveUnusedNodesPass()(model)
    return merged


def sharing(layer: str, adapter: Adapter, places: Places) -> list[str]:
    """The layers that are parts of this layer's weight, itself included."""
    weight = places[layer][0].weight
    return [name for name in adapter if places[name][0].weight is weight]


def requantized(
    site: Site, layers: Iterable[str], adapter: Adapter, places: Places
) -> tuple[Blocks, Blocks, F64]:
    """The base's codes, the new ones, and the change that was asked for, as the base stores it."""
    base = read(site)
    change = np.zeros(base.shape)
    for layer in layers:
        part, dense = _part(places[layer][0], adapter[layer])
        change[part] += dense
    return base, changed(base, change), change


def _requantize(
    model: ir.Model, adapter: Adapter, places: Places, layers: list[str], merged: Merged
) -> None:
    sites = places[layers[0]]
    base, new, change = requantized(sites[0], layers, adapter, places)
    error = new.dense() - base.dense() - change
    for layer in layers:
        part, _ = _part(places[layer][0], adapter[layer])
        merged.count(layer, error[part], change[part])
    ours = {(site.node, 1) for site in sites} | {
        (link, 0) for site in sites for link in site.chain[1:]
    }
    shared = [use for site in sites for link in site.chain for use in link.outputs[0].uses()]
    if any((use.node, use.idx) not in ours for use in shared):
        raise UnsupportedError(
            "a quantized weight that others use too cannot take ΔW",
            layer=layers[0],
            found=sites[0].weight_name,
            hint="use {form=branch}",
        )
    names = {}
    readers = {inputs(site)[0] for site in sites}
    direct = bool(sites[0].chain) and sites[0].chain[0].op_type != "DequantizeLinear"
    if direct:
        raise UnsupportedError(
            "codes that are turned before they are dequantized cannot take ΔW",
            layer=layers[0],
            hint="use {form=branch}",
        )
    for index, tensor in tensors(new, sites[0]):
        names[index] = _put(model, readers, index, tensor, layers[0])
    for layer in layers:
        merged.weights[layer] = names[inputs(sites[0])[1]]


def _put(
    model: ir.Model, readers: set[ir.Node], index: int, tensor: ir.TensorProtocol, layer: str
) -> str:
    """Gives the nodes a new constant: in the old one's place, if nobody else reads that."""
    old = next(iter(readers)).inputs[index]
    assert old is not None  # noqa: S101 - read() has seen it
    users = {(use.node, use.idx) for use in old.uses()}
    if old.is_initializer() and not old.is_graph_input() and users == {(n, index) for n in readers}:
        tensor.name = old.name
        old.const_value = tensor
        return str(old.name)
    value = add_constant(model.graph, f"{layer}.kronq.{index}", tensor)
    for node in readers:
        node.replace_input_with(index, value)
    return str(value.name)


def _part(site: Site, delta: Delta) -> tuple[tuple[slice, slice], F64]:
    """A layer's place in the stored weight, and its ΔW in that orientation."""
    rows, everything = slice(*site.rows(delta.shape[0])), slice(None)
    change = dense(delta)
    if site.stored_transposed:
        return (rows, everything), change
    return (everything, rows), change.T


def _entry(site: Site) -> tuple[ir.Node, int]:
    """The node and input through which a site reads its stored weight."""
    return (site.chain[0], 0) if site.chain else (site.node, 1)


def _untie(model: ir.Model, layer: str, sites: tuple[Site, ...], tensor: ir.LazyTensor) -> str:
    """Gives the sites a weight of their own, with their own copy of what it passes through."""
    value = add_constant(model.graph, f"{layer}.kronq.weight", tensor)
    for index, site in enumerate(sites):
        weight = value
        copies: list[ir.Node] = []
        for link in site.chain:
            copies.append(
                ir.Node(
                    link.domain,
                    link.op_type,
                    [weight],
                    link.attributes.values(),
                    name=f"{layer}/kronq/{link.op_type}_{index}_{len(copies)}",
                )
            )
            weight = copies[-1].outputs[0]
        if copies and site.node.graph is not None:
            site.node.graph.insert_before(site.node, copies)
        site.node.replace_input_with(1, weight)
    return str(value.name)


def _summed(
    base: ir.TensorProtocol, layer: str, delta: Delta, site: Site, merged: Merged
) -> ir.LazyTensor:
    dtype = base.dtype

    def add() -> ir.TensorProtocol:
        total = merged_weight(base, delta, site)
        stored = total.astype(dtype.numpy())
        part, change = _part(site, delta)
        merged.count(layer, stored[part].astype(np.float64) - total[part], change)
        return ir.Tensor(stored, dtype=dtype, name=base.name)

    shape = ir.Shape(base.shape.numpy())
    compute: Callable[[], ir.TensorProtocol] = add
    return ir.LazyTensor(compute, dtype=dtype, shape=shape, name=base.name)


def merged_weight(base: ir.TensorProtocol, delta: Delta, site: Site) -> F64:
    """W + ΔW in float64, in the orientation in which the base stores W."""
    total = float64(base)
    part, change = _part(site, delta)
    total[part] += change
    return total


def dense(delta: Delta) -> F64:
    """ΔW [d_out, d_in] in float64."""
    change = np.kron(delta.a.float64() * delta.scale, delta.b.float64())
    return np.asarray(change[: delta.shape[0], : delta.shape[1]])


def float64(tensor: ir.TensorProtocol) -> F64:
    """A copy of the values; what was mapped of the file is let go."""
    values = tensor.numpy().astype(np.float64)
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return np.asarray(values)
