"""Matches layers to sites of the base: by map, by name or, without names, by position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kronq.model.adapter import Adapter
from kronq.onnx.graph.layer_match import LayerMatch, Matches
from kronq.onnx.graph.match_by_map import LayerMap, match_by_map
from kronq.onnx.graph.match_by_name import match_by_name
from kronq.onnx.graph.match_by_position import match_by_position
from kronq.onnx.graph.model_half import half_of, other_halves, refuse_other_half
from kronq.onnx.graph.naming_families import may_differ_in_order
from kronq.onnx.graph.refuse_wrong_base import refuse_unmatched
from kronq.onnx.graph.sites import Site


def find_matches(
    layers: Iterable[str], sites: Sequence[Site], mapping: LayerMap | None = None
) -> dict[str, LayerMatch]:
    """Matches every layer, certain or not.

    Positions are compared only where no layer outside of the map is found by name, among sites
    without names, and only for an adapter: names alone have no shapes. They are not for an adapter
    of an image model whose names the base does not have: two families differ in the order of rows.

    Args:
        layers: The adapter, or names of layers alone.
        sites: The base's linear layers.
        mapping: Layer → node or weight of the base, as ``--map`` gives it.

    Raises:
        MismatchError: The map does not fit the adapter or the base.
    """
    mapped = match_by_map(layers, sites, mapping or {})
    matches = {name: LayerMatch("map", own) for name, own in mapped.items()}
    rest = [name for name in layers if name not in mapped]
    # A rule that serves the layers of one half says nothing on the other's.
    halves = other_halves(sites)
    foreign = [name for name in rest if half_of(name) in halves]
    own = [name for name in rest if half_of(name) not in halves]
    others = match_by_name(own, sites) | match_by_name(foreign, sites)
    unmatched = all(match.how == "missing" for match in others.values())
    if isinstance(layers, Adapter) and unmatched and not may_differ_in_order(rest, sites):
        pinned = {name: own[0] for name, own in mapped.items()}
        candidates = match_by_position(layers, sites, pinned)
        others = {name: _settle_position(candidates.get(name, ()), sites) for name in rest}
    matches |= refuse_other_half(others, halves)
    return {name: matches[name] for name in layers}


def _settle_position(candidates: Sequence[Site], sites: Sequence[Site]) -> LayerMatch:
    if len(candidates) != 1:
        how = "ambiguous" if candidates else "missing"
        return LayerMatch(how, candidates=tuple(candidates))
    weight = candidates[0].weight
    return LayerMatch("position", tuple(site for site in sites if site.weight is weight))


def match_layers(
    layers: Iterable[str],
    sites: Sequence[Site],
    mapping: LayerMap | None = None,
    integer_types: Sequence[str] = (),
) -> Matches:
    """Matches every layer, each with certainty.

    Args:
        layers: The adapter, or names of layers alone.
        sites: The base's linear layers.
        mapping: Layer → node or weight of the base, or several of a fused layer, for layers that
            names do not match.
        integer_types: Operator types of the base that take no adapter, for the message.

    Raises:
        MismatchError: Layers without a match (three are shown), or with more than one.
    """
    matches = find_matches(layers, sites, mapping)
    base_model = layers.origin.base_model if isinstance(layers, Adapter) else None
    refuse_unmatched(matches, sites, integer_types, base_model)
    return {name: match.sites for name, match in matches.items()}
