"""Projections that some models keep in one weight, and others apart.

The rows of a fused weight are those of its parts, one after the other. Fused weights whose rows are
in any other order, such as ``query_key_value`` of GPT-NeoX, are not listed: names do not tell them
from those that are in order (ChatGLM's).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from kronq.onnx.graph.sites import Site

PARTS: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q", "k", "v"),
    "gate_up_proj": ("gate", "up"),
}
"""Name of a fused layer → its parts, in the order of its rows; part ``q`` is called ``q_proj``."""


def fused_and_parts(names: Mapping[str, list[Site]]) -> Iterator[tuple[str, list[Site]]]:
    """Yields the sites of fused weights by the names of the parts, and of parts by the fused name.

    Args:
        names: Canonical name → the sites of that name.
    """
    linear = {name: [s for s in sites if s.conv is None] for name, sites in names.items()}
    for name, sites in linear.items():
        for fused, parts in PARTS.items():
            if (prefix := _prefix(name, fused)) is not None:
                for part in parts:
                    own = f"{part}_proj"
                    yield prefix + own, [_rename(replace(s, part=part), fused, own) for s in sites]
            first = f"{parts[0]}_proj"
            if (prefix := _prefix(name, first)) is not None:
                several = [linear.get(f"{prefix}{part}_proj", []) for part in parts]
                yield prefix + fused, [_rename(s, first, fused) for s in share_rows(several)]


def part_names(layer: str) -> tuple[str, ...]:
    """Returns the names of a fused layer's parts; none for another layer."""
    for fused, parts in PARTS.items():
        if (prefix := _prefix(layer, fused)) is not None:
            return tuple(f"{prefix}{part}_proj" for part in parts)
    return ()


def fused_name(layer: str) -> tuple[str, str] | None:
    """Returns the name of the fused layer that a layer is a part of, and the part."""
    for fused, parts in PARTS.items():
        for part in parts:
            if (prefix := _prefix(layer, f"{part}_proj")) is not None:
                return prefix + fused, part
    return None


def share_rows(parts: Sequence[Sequence[Site]]) -> list[Site]:
    """Divides the rows of a fused layer among the sites of its parts.

    Args:
        parts: For each part, in the order of the rows, its site; several where the base uses it
            again.

    Returns:
        Every site with its ``share``; none where the parts do not read the same inputs.
    """
    reads = [[(site.x, site.dtype, site.shape[1]) for site in sites] for sites in parts]
    if any(read != reads[0] for read in reads) or not reads[0]:
        return []
    ends = list(accumulate(sites[0].shape[0] for sites in parts))
    return [
        replace(site, share=(end - site.shape[0], end))
        for sites, end in zip(parts, ends, strict=True)
        for site in sites
    ]


def _prefix(name: str, layer: str) -> str | None:
    """Returns what stands before the layer in a name that ends with it."""
    prefix = name.removesuffix(layer)
    return prefix if prefix != name and prefix[-1:] in ("", "_", ".") else None


def _rename(site: Site, old: str, new: str) -> Site:
    names = tuple(n.removesuffix(old) + new if n.endswith(old) else n for n in site.names)
    return replace(site, names=names)
