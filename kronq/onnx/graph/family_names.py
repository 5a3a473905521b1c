"""Names that other families of image models have for the layers of a base by diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from kronq.onnx.graph.bfl_names import bfl_names
from kronq.onnx.graph.fused_layers import share_rows
from kronq.onnx.graph.ldm_names import ldm_names
from kronq.onnx.graph.sites import Site


def sites_by_family_names(index: Mapping[str, list[Site]]) -> Iterator[tuple[str, list[Site]]]:
    """Yields the sites of a UNet by their names in LDM, and those of Flux by BFL's.

    Args:
        index: Canonical name → the sites of that name.

    Yields:
        Name and sites; of a layer that diffusers keeps apart those of all its parts.
    """
    for name, other in ldm_names(index):
        yield other, _rename(index[name], other)
    for parts, other in bfl_names(index):
        sites = [index.get(part, []) for part in parts]
        yield other, _rename(share_rows(sites) if len(sites) > 1 else sites[0], other)


def _rename(sites: list[Site], name: str) -> list[Site]:
    return [replace(site, names=(name,)) for site in sites]
