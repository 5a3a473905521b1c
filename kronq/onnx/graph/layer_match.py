"""The result of matching: a layer of the adapter → its sites in the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kronq.onnx.graph.sites import Site

Matches = Mapping[str, tuple[Site, ...]]
"""Layer → the sites that multiply by its weight: one, unless the base uses the layer again."""


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
