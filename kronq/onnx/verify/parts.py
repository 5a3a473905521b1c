"""Every export is checked before it is called done: what was written against the normal form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.onnx.branch.function import DOMAIN
from kronq.onnx.branch.graft import LAYER
from kronq.onnx.export_report import Difference
from kronq.onnx.folder import MODEL
from kronq.onnx.graph.names import Places
from kronq.onnx.graph.sites import find_sites
from kronq.onnx.graph.values import constant
from kronq.onnx.merge.merge import float64, merged_weight
from kronq.onnx.sessions import open_session
from kronq.onnx.slots.spec import Slots, a_of, b1_of
from kronq.onnx.verify.difference import ROWS, TOLERANCES, accept, difference, worse
from kronq.onnx.verify.weight_codes import check_codes
from kronq.onnx.verify.whole_model import Feeds


def check_branches(folder: Path, adapter: Adapter, written: Mapping[str, str]) -> Difference:
    """Runs every branch as it was written, alone, and compares it with ``Delta.apply``.

    Raises:
        KronqError: One is missing, or differs by more than the tolerance.
    """
    model = ir.load(folder / MODEL)
    grafted = {node.name: node for node in model.graph.all_nodes() if node.domain == DOMAIN}
    absent = [name for name in written if name not in grafted]
    if absent or {*written.values()} != {*adapter}:
        raise KronqError("a branch was not written", layer=absent[0] if absent else None)
    ours = [grafted[name] for name in written]
    session, feeds, layers = _probe(model, ours, folder)
    found = session.run(None, feeds)
    worst = Difference(tolerance=TOLERANCES[ir.DataType.FLOAT])
    for output, (layer, source), node in zip(found, layers, ours, strict=True):
        place = node.attributes.get_ints("place", None)
        x = np.asarray(feeds[source], dtype=np.float32)
        kind = ir.DataType.from_numpy(feeds[source].dtype)
        expected = adapter[layer].apply(x)
        if place is not None:
            sides = [(0, 0)] * (x.ndim - 1) + [(place[x.ndim - 1], place[-1])]
            expected = np.pad(expected, sides)
        here = difference(output, expected, TOLERANCES[kind], layer)
        accept(here, "a branch differs from the normal form")
        worst = worse(worst, here)
    return worst


def check_slots(adapter: Adapter, slots: Slots, given: Feeds) -> Difference:
    """Compares what goes into the slots, by what a slot computes, with ``Delta.apply``.

    Raises:
        KronqError: A layer differs by more than the tolerance.
    """
    rng = np.random.default_rng(0)
    worst = Difference(tolerance=TOLERANCES[ir.DataType.FLOAT])
    for group in slots.groups:
        x = rng.standard_normal((ROWS, group.d_in)).astype(np.float32)
        cut = x.reshape(ROWS, *given[group.cut][-2:]) @ given[group.b2]
        ends: list[int] = np.cumsum(given[group.ranks])[:-1].tolist() if group.ranks else []
        for member, part in zip(group.members, np.split(cut, ends, axis=-1), strict=True):
            if member.layer in adapter:
                found = given[a_of(member.layer)] @ part @ given[b1_of(member.layer)]
                expected = adapter[member.layer].apply(x)
                found = found.reshape(expected.shape)
                here = difference(found, expected, worst.tolerance, member.layer)
                accept(here, "what goes into a slot differs from the normal form")
                worst = worse(worst, here)
    return worst


def _probe(
    model: ir.Model, nodes: list[ir.Node], folder: Path
) -> tuple[ort.InferenceSession, Feeds, list[tuple[str, str]]]:
    """A model of the branches alone: their functions and their bytes on disk, random inputs."""
    rng = np.random.default_rng(0)
    inputs: dict[str, ir.Value] = {}
    weights: dict[str, ir.Value] = {}
    feeds: Feeds = {}
    copies, layers = [], []
    for index, node in enumerate(nodes):
        x = node.inputs[0]
        layer = node.metadata_props[LAYER]
        width, rank, dtype = _input_of(model, node)
        name = f"x{width}_{rank}_{dtype.name}"
        if name not in inputs:
            shape = (*[1] * (rank - 2), ROWS, width)
            inputs[name] = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
            feeds[name] = rng.standard_normal(shape).astype(dtype.numpy())
        values: list[ir.Value | None] = [inputs[name]]
        for value in node.inputs[1:]:
            if value is None or value.const_value is None or value is x:
                raise KronqError("a branch's factor is not a constant", layer=layer)
            key = str(value.name)
            if key not in weights:
                weights[key] = constant(key, value.const_value)
            values.append(weights[key])
        copy = ir.Node(node.domain, node.op_type, values, node.attributes.values())
        copy.outputs[0].name = f"y{index}"
        copy.outputs[0].type = ir.TensorType(dtype)
        copy.outputs[0].shape = ir.Shape([None] * rank)
        copies.append(copy)
        layers.append((layer, name))
    graph = ir.Graph(
        list(inputs.values()),
        [copy.outputs[0] for copy in copies],
        nodes=copies,
        initializers=list(weights.values()),
        opset_imports=dict(model.graph.opset_imports),
        name="probe",
    )
    functions = [f for f in model.functions.values() if f.domain == DOMAIN]
    probe = ir.Model(graph, ir_version=model.ir_version, functions=functions)
    session = open_session(folder / MODEL, model=ir.to_proto(probe).SerializeToString())
    return session, feeds, layers


def _input_of(model: ir.Model, node: ir.Node) -> tuple[int, int, ir.DataType]:
    """Width, rank and type of what a branch is fed, as its own attributes and body tell."""
    function = model.functions[(node.domain, node.op_type, node.overload)]
    factors = {
        parameter.name: value for parameter, value in zip(function.inputs, node.inputs, strict=True)
    }
    last = factors.get("B2") or factors["B1"]
    if last is None or last.shape is None:
        raise KronqError("a branch's factor has no shape", layer=node.metadata_props[LAYER])
    width = last.shape.numpy()[1]
    rank = 3
    if "in_shape" in node.attributes:
        shape = node.attributes.get_ints("in_shape")
        width, rank = shape[-1] * shape[-2], len(shape) - 1
    if "pads" in node.attributes:
        pads = node.attributes.get_ints("pads")
        width, rank = width - pads[-1], len(pads) // 2
    if "place" in node.attributes:
        rank = len(node.attributes.get_ints("place")) // 2
    dtype = ir.DataType.FLOAT
    if any(use.op_type == "Cast" for use in function.inputs[0].consumers()):
        final = function.outputs[0].producer()
        dtype = dtype if final is None else ir.DataType(final.attributes["to"].as_int())
    return width, rank, dtype


def check_weights(
    folder: Path, adapter: Adapter, places: Places, merged: Mapping[str, str]
) -> Difference:
    """Compares every merged weight on disk with W + ΔW, rounded as the base rounds.

    Raises:
        KronqError: A weight is not W + ΔW rounded to its dtype.
    """
    model = ir.load(folder / MODEL)
    written = model.graph.initializers
    coded = {s.codes.name: s for s in find_sites(model) if s.codes is not None}
    checked: set[str] = set()
    worst = Difference(tolerance=0.0)
    for layer, delta in adapter.items():
        site = places[layer][0]
        if site.codes is not None:
            # q, k and v of one weight are checked together, once.
            if merged[layer] not in checked:
                at = coded.get(merged[layer])
                worst = worse(worst, check_codes(model, folder, adapter, places, layer, at))
            checked.add(merged[layer])
            continue
        source = site.source.const_value if site.source is not None else None
        stored = written[merged[layer]].const_value
        if source is None or stored is None:
            raise KronqError("a merged weight was not written", layer=layer, path=folder)
        # Of a fused weight only this layer's outputs: the others have a ΔW of their own.
        part = slice(*site.rows(delta.shape[0]))
        part_of = (part, slice(None)) if site.stored_transposed else (slice(None), part)
        expected = merged_weight(source, delta, site)[part_of]
        got = float64(stored)[part_of]
        # Half a unit in the last place of the largest weight is what rounding may cost.
        tolerance = float(ml_dtypes.finfo(stored.dtype.numpy()).eps)
        here = difference(got, expected, tolerance, layer)
        accept(here, "a merged weight is not W + ΔW")
        worst = worse(worst, here)
    return worst
