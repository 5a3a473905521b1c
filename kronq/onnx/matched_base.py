"""A base opened once for one adapter: its graph, its sites, and the adapter's place in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from kronq.errors import StrPath
from kronq.model.adapter import Adapter
from kronq.model.base_fingerprint import BaseFingerprint, WeightPrint, refuse_other_base
from kronq.model.plain import refuse_carried, refuse_cores
from kronq.onnx.base_folder import find_base, load_base
from kronq.onnx.external_data import external_files
from kronq.onnx.graph.layer_match import Matches, sites_by_weight
from kronq.onnx.graph.match import find_matches
from kronq.onnx.graph.match_by_map import LayerMap
from kronq.onnx.graph.refuse_wrong_base import fit_to_base, refuse_unmatched
from kronq.onnx.graph.sites import Site, find_sites, integer_node_types
from kronq.onnx.guard_base import guard_base
from kronq.onnx.weight_prints import fingerprint, print_weights


@dataclass(frozen=True, eq=False)
class MatchedBase:
    """A base, the sites that the adapter's layers have in it, and the adapter in its shapes.

    Attributes:
        file: The base's .onnx file.
        model: Its graph.
        sites: All linear layers, in the order of the graph.
        matches: Layer → its sites.
        matched_by: Layer → ``name``, ``position`` or ``map``.
        adapter: The adapter, fitted to the base's shapes.
        cropped: Layers that were cropped to fit.
    """

    file: Path
    model: ir.Model
    sites: tuple[Site, ...]
    matches: Matches
    matched_by: Mapping[str, str]
    adapter: Adapter
    cropped: tuple[str, ...]

    @cached_property
    def matched_sites(self) -> list[Site]:
        """Sites of all layers."""
        return [site for sites in self.matches.values() for site in sites]

    @cached_property
    def weights(self) -> list[tuple[str, tuple[Site, ...]]]:
        """Every layer with its sites, those of one weight together."""
        return [
            (layer, same) for layer in self.adapter for same in sites_by_weight(self.matches[layer])
        ]

    @cached_property
    def prints(self) -> dict[str, WeightPrint] | None:
        """Fingerprint of every layer's weight; None where one is stored in an unknown way."""
        return print_weights(self.matches, {n: d.shape for n, d in self.adapter.items()})

    @cached_property
    def fingerprint(self) -> BaseFingerprint | None:
        """Fingerprint of the adapter's base."""
        return fingerprint(self.prints)

    @property
    def quantized(self) -> bool:
        """Whether the base stores an adapted weight as codes."""
        return any(site.codes is not None for site in self.matched_sites)

    @property
    def nbytes(self) -> int:
        """Size of the base's files."""
        files = (self.file.name, *external_files(self.model))
        return sum((self.file.parent / file).stat().st_size for file in files)

    def copy(self) -> MatchedBase:
        """Returns a copy whose graph may be changed in place; weights are shared."""
        model = self.model.clone()
        copies = find_sites(model)
        of_node = {old.node: new for old, new in zip(self.sites, copies, strict=True)}
        matches = {
            layer: tuple(
                replace(of_node[site.node], part=site.part, share=site.share) for site in sites
            )
            for layer, sites in self.matches.items()
        }
        return replace(self, model=model, sites=tuple(copies), matches=matches)


def match_base(adapter: Adapter, base: StrPath, mapping: LayerMap | None = None) -> MatchedBase:
    """Opens a base and matches an adapter to it.

    Args:
        adapter: Any adapter, quantized or not.
        base: An .onnx file, or a folder with one.
        mapping: Layer → node or weight, for layers that names do not match.

    Raises:
        MismatchError: The adapter does not belong to this base, or was calibrated with another.
        FormatError: The base is not an ONNX model, or incomplete.
        UnsupportedError: The base's external data lies outside of its folder; or the adapter has
            carried tensors.
    """
    refuse_cores(adapter, "an ONNX base")
    refuse_carried(adapter, "an ONNX base", "{form=merged} takes biases and norms")
    file = find_base(base)
    model = load_base(file)
    with guard_base(file):
        sites = find_sites(model)
        found = find_matches(adapter, sites, mapping)
        refuse_unmatched(found, sites, integer_node_types(model), adapter.origin.base_model)
        matches = {layer: match.sites for layer, match in found.items()}
        fitted = fit_to_base(adapter, matches)
    matched = MatchedBase(
        file=file,
        model=model,
        sites=tuple(sites),
        matches=matches,
        matched_by={layer: match.how for layer, match in found.items()},
        adapter=fitted,
        cropped=tuple(name for name in adapter if fitted[name].shape != adapter[name].shape),
    )
    if adapter.base is not None:
        refuse_other_base(adapter.base, matched.fingerprint, file)
    return matched
