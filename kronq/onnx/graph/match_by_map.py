"""Matches layers to sites by the user's map: layer → the base's node or weight."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kronq.errors import FormatError, MismatchError, StrPath
from kronq.io.json_file import read_json
from kronq.model.adapter import Adapter
from kronq.onnx.graph.sites import Site

_QKV_NAME = re.compile(r"(?:^|[._])([qkv])_proj$")


def load_mapping(path: StrPath) -> dict[str, str]:
    """Reads ``--map FILE``, a JSON object of strings.

    Args:
        path: The file.

    Returns:
        Layer → node or weight of the base.

    Raises:
        NotFoundError: It does not exist.
        FormatError: It cannot be read, or is something else.
    """
    mapping = read_json(path)
    if not all(isinstance(value, str) for value in mapping.values()):
        raise FormatError("not a map", path=path, expected='{"layer": "node or weight", …}')
    return mapping


def match_by_map(
    layers: Iterable[str], sites: Sequence[Site], mapping: Mapping[str, str]
) -> dict[str, tuple[Site, ...]]:
    """Finds the sites that a map names.

    Args:
        layers: The adapter, or names of layers alone, whose shapes are not checked then.
        sites: The base's linear layers.
        mapping: Layer → node or weight.

    Returns:
        Layer of the map → its sites.

    Raises:
        MismatchError: It names a layer, node or weight that does not exist, or of another shape.
    """
    known = {*layers}
    nodes = {site.node.name: site for site in sites[::-1] if site.node.name}
    weights = {site.weight_name: site for site in sites[::-1]}
    matched = {}
    for layer, name in mapping.items():
        if layer not in known:
            raise _unknown_error("the map names an unknown layer", layer, known, layer)
        site = nodes.get(name) or weights.get(name)
        if site is None:
            raise _unknown_error(
                "the map names no linear layer of the base", name, {*nodes, *weights}, layer
            )
        if isinstance(layers, Adapter):
            site = _check_shape(layers, layer, site, mapping)
        same = [other for other in sites if other.weight is site.weight]
        matched[layer] = tuple(replace(s, part=site.part) if site.part else s for s in same)
    return matched


def _check_shape(adapter: Adapter, layer: str, site: Site, mapping: Mapping[str, str]) -> Site:
    """Returns the site, or q's, k's or v's part of it; refuses one of another shape."""
    shape, name = adapter[layer].shape, mapping[layer]
    part = _QKV_NAME.search(layer)
    # A part of a weight is meant where the base calls it so, or the map names it twice.
    fused = "qkv" in name or [*mapping.values()].count(name) > 1
    if part and fused and shape[0] < site.shape[0] and shape[1] == site.shape[1]:
        return replace(site, part=part[1])
    if shape != site.shape and not adapter.origin.cropped_by_base:
        raise MismatchError(
            "the map gives the layer a place of another shape",
            layer=layer,
            found=f"{list(site.shape)} at {name!r}",
            expected=str(list(shape)),
        )
    return site


def _unknown_error(message: str, name: str, known: set[str], layer: str) -> MismatchError:
    near = difflib.get_close_matches(name, known, 2, 0.5)
    hint = f"nearest: {', '.join(near)}" if near else "{match_table} shows the names"
    return MismatchError(message, layer=layer, found=repr(name), hint=hint)
