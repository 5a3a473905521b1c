"""Checks every branch of an export, run alone, against ΔW."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from kronq.errors import KronqError
from kronq.onnx.base_folder import MODEL
from kronq.onnx.branch.add_branches import LAYER
from kronq.onnx.branch.function_body import DOMAIN
from kronq.onnx.export_report import Difference
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.sessions import open_session
from kronq.onnx.verify.branch_probe import make_probe
from kronq.onnx.verify.convolve import convolve, image_shape
from kronq.onnx.verify.difference import (
    TOLERANCES,
    larger_difference,
    measure_difference,
    refuse_difference,
)


def check_branches(folder: Path, base: MatchedBase, branches: Mapping[str, str]) -> Difference:
    """Runs every branch on disk, alone, and compares it with ``Delta.apply`` on random inputs.

    Args:
        folder: The export.
        base: The base and its adapter.
        branches: Branch node → its layer.

    Returns:
        The largest difference.

    Raises:
        KronqError: A branch is missing, or differs by more than the tolerance.
    """
    adapter = base.adapter
    convs = {layer: sites[0].conv for layer, sites in base.matches.items()}
    model = ir.load(folder / MODEL)
    on_disk = {node.name: node for node in model.graph.all_nodes() if node.domain == DOMAIN}
    absent = [name for name in branches if name not in on_disk]
    if absent or {*branches.values()} != {*adapter}:
        raise KronqError("a branch was not written", layer=absent[0] if absent else None)
    nodes = [on_disk[name] for name in branches]
    images = {n: image_shape(adapter[n], conv) for n, conv in convs.items() if conv is not None}
    probe = make_probe(model, nodes, images)
    proto = ir.to_proto(probe.model(model)).SerializeToString()
    outputs = open_session(folder / MODEL, model=proto).run(None, probe.feeds)
    worst = Difference(tolerance=TOLERANCES[ir.DataType.FLOAT])
    for output, name, node in zip(outputs, probe.fed, nodes, strict=True):
        layer = node.metadata_props[LAYER]
        x = np.asarray(probe.feeds[name], dtype=np.float32)
        conv = convs[layer]
        delta = adapter[layer]
        expected = delta.apply(x) if conv is None else convolve(delta, x, conv)
        padding = node.attributes.get_ints("place", None)
        if padding is not None:
            sides = [(0, 0)] * (x.ndim - 1) + [(padding[x.ndim - 1], padding[-1])]
            expected = np.pad(expected, sides)
        dtype = ir.DataType.from_numpy(probe.feeds[name].dtype)
        difference = measure_difference(output, expected, TOLERANCES[dtype], layer)
        refuse_difference(difference, "a branch differs from the normal form")
        worst = larger_difference(worst, difference)
    return worst
