"""Which layer of the adapter belongs to which linear layer of the base: map, name, position."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.layer_names import describe_names, name_template, natural_key
from kronq.onnx.graph.layer_map import read_mapping
from kronq.onnx.graph.names import Found, Places, by_name, canonical
from kronq.onnx.graph.positions import by_position
from kronq.onnx.graph.sites import Site


def find(
    layers: Iterable[str], sites: Sequence[Site], mapping: Mapping[str, str] | None = None
) -> dict[str, Found]:
    """Every layer's place in the base, certain or not: by the map, by name, else by position.

    Position (positions.py) is asked only where no layer outside of the map is found by name, and
    only of an adapter: names alone have no shapes.

    Raises:
        MismatchError: The map does not fit the adapter or the base.
    """
    pinned = read_mapping(layers, sites, mapping or {})
    found = {name: Found("map", places) for name, places in pinned.items()}
    rest = [name for name in layers if name not in pinned]
    named = by_name(rest, sites)
    if isinstance(layers, Adapter) and all(entry.how == "missing" for entry in named.values()):
        options = by_position(layers, sites, {name: sites[0] for name, sites in pinned.items()})
        named = {name: _positioned(options.get(name, ()), sites) for name in rest}
    found |= named
    return {name: found[name] for name in layers}


def _positioned(options: Sequence[Site], sites: Sequence[Site]) -> Found:
    if len(options) != 1:
        return Found("ambiguous" if options else "missing", candidates=tuple(options))
    weight = options[0].weight
    return Found("position", tuple(site for site in sites if site.weight is weight))


def match(
    layers: Iterable[str],
    sites: Sequence[Site],
    mapping: Mapping[str, str] | None = None,
    integer: Sequence[str] = (),
) -> Places:
    """Finds each layer's place in the base.

    Args:
        layers: The adapter, or names alone.
        sites: The base's linear layers.
        mapping: Layer → node or weight, for what names do not tell.
        integer: Types of the base's nodes that no adapter can go beside.

    Raises:
        MismatchError: Layers without a place (all are listed), or with more than one.
    """
    return settled(find(layers, sites, mapping), sites, integer)


def settled(
    found: Mapping[str, Found], sites: Sequence[Site], integer: Sequence[str] = ()
) -> Places:
    """The places that ``find`` found, if all layers have one; arguments as for ``match``.

    Raises:
        MismatchError: Layers without a place (all are listed), or with more than one.
    """
    unsettled = {name: entry for name, entry in found.items() if entry.how == "ambiguous"}
    missing = [name for name, entry in found.items() if entry.how == "missing"]
    if missing and not unsettled:
        raise _missing(missing, len(found), sites, integer)
    if unsettled:
        kinds: dict[str, list[str]] = {}
        for name in sorted(unsettled, key=natural_key):
            kinds.setdefault(name_template(name), []).append(name)
        told = "; ".join(
            f"{describe_names(names)}: "
            + " or ".join(site.label for site in unsettled[names[0]].candidates)
            + (f" (for {names[0]})" if len(names) > 1 else "")
            for names in kinds.values()
        )
        raise MismatchError(
            f"{len(unsettled)} of {len(found)} adapted layers fit the base in more than one way",
            found=told + (f"; no place for {', '.join(missing)}" if missing else ""),
            expected="one place for each layer",
            hint="{mapping} of layers to nodes settles it: one layer of each kind is enough "
            "where the base has no names; {match_table} shows the table",
        )
    return {name: entry.sites for name, entry in found.items()}


def fit(adapter: Adapter, places: Places) -> Adapter:
    """The adapter in the base's shapes; raw factors are cropped to them.

    Raises:
        MismatchError: A layer has another shape than the base's weight.
    """
    fitted = {}
    for name, delta in adapter.items():
        site = places[name][0]
        shape = site.shape
        if site.part is not None:
            shape = _part_shape(name, site, delta, adapter)
        found = adapter.fitted(name, shape)
        if found is None:
            raise MismatchError(
                "the layer has another shape than the base's weight",
                layer=name,
                found=f"{list(delta.shape)} in the adapter",
                expected=f"{list(shape)} at {site.label!r}",
                hint="wrong base model?",
            )
        fitted[name] = found
    _check_apart(fitted, places)
    return replace(adapter, layers=fitted)


def _check_apart(layers: Mapping[str, Delta], places: Places) -> None:
    """Layers of one weight may not overlap, and must agree on where q ends and k ends.

    Raises:
        MismatchError: Two do not go together.
    """
    taken: dict[int, dict[str | None, str]] = {}
    for name, delta in layers.items():
        site = places[name][0]
        others = taken.setdefault(id(site.node), {})
        for part, other in others.items():
            sizes = {_key_size(site, delta), _key_size(places[other][0], layers[other])}
            if part == site.part or None in (part, site.part) or len(sizes) != 1:
                raise MismatchError(
                    "two layers of the adapter do not go together in one weight of the base",
                    layer=name,
                    found=f"{other!r} goes to {site.label!r} too",
                    hint="wrong base model?",
                )
        others[site.part] = name


def _key_size(site: Site, delta: Delta) -> float:
    """How many of a fused weight's outputs k has, and v: by what this layer has."""
    d_out = delta.shape[0]
    return (site.shape[0] - d_out) / 2 if site.part == "q" else d_out


def _part_shape(name: str, site: Site, delta: Delta, adapter: Adapter) -> tuple[int, int]:
    """The shape of q, k or v in a fused weight: k and v are equal, and no larger than q.

    Raises:
        MismatchError: The layer's own d_out cannot be one of them.
    """
    keys = _key_size(site, delta)
    queries = site.shape[0] - 2 * keys
    if adapter.origin.cropped_by_base or not (keys >= 1 and keys % 1 == 0 and queries >= keys):
        raise MismatchError(
            "the layer's place in the base's fused q, k and v is not certain",
            layer=name,
            found=f"{list(delta.shape)} in the adapter",
            expected=f"{site.part} of the {list(site.shape)} at {site.label!r}",
            hint="build the base with q, k and v apart, as kronq base does",
        )
    return delta.shape[0], site.shape[1]


def _missing(
    missing: Sequence[str], total: int, sites: Sequence[Site], integer: Sequence[str]
) -> MismatchError:
    known = {canonical(name): name for site in sites for name in site.names[::-1]}
    parts = []
    for count, name in enumerate(missing):
        # Looking for neighbours is slow, and after the first fifty nobody learns from them.
        near = difflib.get_close_matches(canonical(name), known, 2, 0.5) if count < 50 else []
        like = f" (nearest: {', '.join(known[key] for key in near)})" if near else ""
        parts.append(f"{name}{like}")
    if integer:
        kinds = " and ".join(sorted(set(integer)))
        hint = f"adapters do not go beside {kinds}: quantize the base to QDQ, or its weights only"
    elif not sites:
        hint = "the base has no MatMul or Gemm with a constant weight"
    else:
        hint = "wrong base model? or give {mapping}; {match_table} shows the table"
    return MismatchError(
        f"{len(missing)} of {total} adapted layers have no place in the base",
        found="; ".join(parts),
        hint=hint,
    )
