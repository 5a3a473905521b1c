"""The user's own word for where layers go: layer → the base's node or weight."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kronq.errors import FormatError, MismatchError, NotFoundError, StrPath
from kronq.model.adapter import Adapter
from kronq.onnx.graph.sites import Site

_THIRD = re.compile(r"(?:^|[._])([qkv])_proj$")


def load_mapping(path: StrPath) -> dict[str, str]:
    """Reads ``--map FILE``: a JSON object of strings.

    Raises:
        FormatError: It is something else.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError("no such file", path=path) from None
    except OSError as error:
        raise FormatError("the map cannot be read", path=path, found=error.strerror) from None
    except ValueError as error:
        raise FormatError("the map is not JSON", path=path, found=str(error)) from None
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise FormatError("not a map", path=path, expected='{"layer": "node or weight", …}')
    return told


def read_mapping(
    layers: Iterable[str], sites: Sequence[Site], mapping: Mapping[str, str]
) -> dict[str, tuple[Site, ...]]:
    """The nodes that a map names.

    Raises:
        MismatchError: It names a layer, node or weight that is not there, or of another shape.
    """
    known = {*layers}
    nodes = {site.node.name: site for site in sites[::-1] if site.node.name}
    weights = {site.weight_name: site for site in sites[::-1]}
    found = {}
    for layer, name in mapping.items():
        if layer not in known:
            raise _unknown("the map names a layer that the adapter has not", layer, known, layer)
        site = nodes.get(name) or weights.get(name)
        if site is None:
            raise _unknown(
                "the map names no linear layer of the base", name, {*nodes, *weights}, layer
            )
        shape = layers[layer].shape if isinstance(layers, Adapter) else site.shape
        third = _THIRD.search(layer)
        # A third of a weight is meant where the base calls it so, or the map names it twice.
        fused = "qkv" in name or [*mapping.values()].count(name) > 1
        if third and fused and shape[0] < site.shape[0] and shape[1] == site.shape[1]:
            site = replace(site, part=third[1])
        elif shape != site.shape and not layers.origin.cropped_by_base:  # type: ignore[attr-defined]
            raise MismatchError(
                "the map gives the layer a place of another shape",
                layer=layer,
                found=f"{list(site.shape)} at {name!r}",
                expected=str(list(shape)),
            )
        same = [s for s in sites if s.weight is site.weight]
        found[layer] = tuple(replace(s, part=site.part) if site.part else s for s in same)
    return found


def _unknown(message: str, name: str, known: set[str], layer: str) -> MismatchError:
    near = difflib.get_close_matches(name, known, 2, 0.5)
    hint = f"nearest: {', '.join(near)}" if near else "{match_table} shows the names"
    return MismatchError(message, layer=layer, found=repr(name), hint=hint)
