"""Matches layers to sites by the user's map: layer → the base's node or weight, or several."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kronq.errors import FormatError, MismatchError, StrPath
from kronq.io.json_file import read_json
from kronq.model.adapter import Adapter
from kronq.onnx.graph.fused_layers import share_rows
from kronq.onnx.graph.sites import Site

_PART_NAME = re.compile(r"(?:^|[._])(q|k|v|gate|up)_proj$")


LayerMap = Mapping[str, str | Sequence[str]]
"""Layer → node or weight of the base.

A fused layer has several, in the order of its rows: those of q, then of k, then of v.
"""


def load_mapping(path: StrPath) -> dict[str, str | list[str]]:
    """Reads ``--map FILE``, a JSON object of strings and lists of strings.

    Args:
        path: The file.

    Returns:
        Layer → node or weight of the base, or a list of them.

    Raises:
        NotFoundError: It does not exist.
        FormatError: It cannot be read, or is something else.
    """
    mapping = read_json(path)
    for value in mapping.values():
        names = value if isinstance(value, list) and value else [value]
        if not all(isinstance(name, str) for name in names):
            raise FormatError("not a map", path=path, expected='{"layer": "node or weight", …}')
    return mapping


def match_by_map(
    layers: Iterable[str], sites: Sequence[Site], mapping: LayerMap
) -> dict[str, tuple[Site, ...]]:
    """Finds the sites that a map names.

    Args:
        layers: The adapter, or names of layers alone, whose shapes are not checked then.
        sites: The base's linear layers.
        mapping: Layer → node or weight, or several.

    Returns:
        Layer of the map → its sites.

    Raises:
        MismatchError: It names a layer, node or weight that does not exist, or of another shape.
    """
    known = {*layers}
    nodes = {site.node.name: site for site in sites[::-1] if site.node.name}
    weights = {site.weight_name: site for site in sites[::-1]}
    matched = {}
    for layer, places in mapping.items():
        if layer not in known:
            raise _unknown_error("the map names an unknown layer", layer, known, layer)
        parts = [places] if isinstance(places, str) else [*places]
        found = []
        for name in parts:
            site = nodes.get(name) or weights.get(name)
            if site is None:
                raise _unknown_error(
                    "the map names no linear layer of the base", name, {*nodes, *weights}, layer
                )
            if isinstance(layers, Adapter) and len(parts) == 1:
                site = _check_shape(layers, layer, name, site, mapping)
            same = [other for other in sites if other.weight is site.weight]
            found.append([replace(s, part=site.part) if site.part else s for s in same])
        matched[layer] = tuple(found[0] if len(parts) == 1 else _share_rows(layer, found))
    return matched


def _share_rows(layer: str, parts: Sequence[Sequence[Site]]) -> list[Site]:
    shared = share_rows(parts)
    if not shared or len({id(sites[0].weight) for sites in parts}) < len(parts):
        raise MismatchError(
            "the map gives a fused layer places that do not read one input",
            layer=layer,
            found=", ".join(sites[0].label for sites in parts),
        )
    return shared


def _check_shape(adapter: Adapter, layer: str, name: str, site: Site, mapping: LayerMap) -> Site:
    """Returns the site, or the layer's part of it; refuses one of another shape."""
    shape = adapter[layer].shape
    part = _PART_NAME.search(layer)
    # A part of a weight is meant where the base calls it so, or the map names it twice.
    fused = "qkv" in name or "gate_up" in name or [*mapping.values()].count(name) > 1
    if part and fused and shape[0] < site.shape[0] and shape[1] == site.shape[1]:
        return replace(site, part=part[1])
    if shape != site.shape and not adapter.origin.cropped_by_base:
        raise MismatchError(
            "the map gives the layer a place of another shape",
            layer=layer,
            found=f"{list(site.shape)} at {name!r}",
            expected=str(list(shape)),
            code="shape",
        )
    return site


def _unknown_error(message: str, name: str, known: set[str], layer: str) -> MismatchError:
    near = difflib.get_close_matches(name, known, 2, 0.5)
    hint = f"nearest: {', '.join(near)}" if near else "{match_table} shows the names"
    return MismatchError(message, layer=layer, found=repr(name), hint=hint)
