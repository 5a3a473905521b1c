"""The result of matching: a layer of the adapter → its sites in the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kronq.onnx.graph.sites import Site

Matches = Mapping[str, tuple[Site, ...]]
"""Layer → the sites that multiply by its weight.

One, unless the base uses the layer again, or keeps the parts of a fused layer apart.
"""


def sites_by_weight(sites: Sequence[Site]) -> list[tuple[Site, ...]]:
    """Returns a layer's sites, those of one weight together."""
    groups: dict[int, list[Site]] = {}
    for site in sites:
        groups.setdefault(id(site.weight), []).append(site)
    return [tuple(group) for group in groups.values()]


def label_of(sites: Sequence[Site]) -> str:
    """Returns the base's name for a layer; of a fused one those of all its parts."""
    return ", ".join(same[0].label for same in sites_by_weight(sites))


@dataclass(frozen=True)
class LayerMatch:
    """The match of one layer.

    Attributes:
        how: ``name``, ``position`` or ``map``; ``ambiguous`` or ``missing`` without a match.
        sites: The layer's sites; none where it is ambiguous or missing.
        candidates: Sites that it might have, where it is ambiguous.
    """

    how: str
    sites: tuple[Site, ...] = ()
    candidates: tuple[Site, ...] = ()
