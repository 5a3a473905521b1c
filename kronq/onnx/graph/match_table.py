"""The table of ``kronq export --dry-run``: every layer of the adapter and its sites in the base."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from kronq.errors import MismatchError, StrPath, check_type
from kronq.model.adapter import Adapter
from kronq.onnx.base_folder import find_base, load_base
from kronq.onnx.graph.match import find_matches
from kronq.onnx.graph.match_by_map import LayerMap
from kronq.onnx.graph.refuse_wrong_base import fit_to_base, refuse_unmatched
from kronq.onnx.graph.sites import Site, find_sites, integer_node_types
from kronq.onnx.guard_base import guard_base


class SiteRow(BaseModel):
    """One linear layer of the base.

    Attributes:
        node: Name of its node.
        weight: Name of its weight.
        shape: [d_out, d_in].
        part: ``q``, ``k`` or ``v`` of a fused weight; None for a whole one.
    """

    model_config = ConfigDict(frozen=True)

    node: str
    weight: str
    shape: tuple[int, int]
    part: str | None = None


class MatchRow(BaseModel):
    """One layer of the adapter.

    Attributes:
        layer: Its name.
        shape: [d_out, d_in].
        how: ``name``, ``position`` or ``map``; ``ambiguous`` or ``missing``.
        places: Its sites: one, unless the base uses the layer again.
        candidates: Sites that it might have, where it is ambiguous.
    """

    model_config = ConfigDict(frozen=True)

    layer: str
    shape: tuple[int, int]
    how: str
    places: list[SiteRow]
    candidates: list[SiteRow]


class MatchTable(BaseModel):
    """The matches of all layers of an adapter.

    Attributes:
        rows: One for each layer.
        unused: Linear layers of the base that no layer is matched to.
        integer: Operator types of the base that take no adapter.
        problem: Reason why an export would be refused; None where it would not.
    """

    model_config = ConfigDict(frozen=True)

    rows: list[MatchRow]
    unused: list[SiteRow]
    integer: list[str]
    problem: str | None = None


def match_table(adapter: Adapter, base: StrPath, mapping: LayerMap | None = None) -> MatchTable:
    """Matches every layer to the base, certain or not, and writes nothing.

    Args:
        adapter: As ``kronq.load`` returns it.
        base: An .onnx file, or a folder with one.
        mapping: Layer → node or weight of the base, or several of a fused layer, for layers that
            names do not match.

    Raises:
        MismatchError: The map does not fit.
        FormatError: The base is not an ONNX model, or incomplete.

    Example:
        >>> table = kronq.match_table(adapter, "base/")
        >>> [row.layer for row in table.rows if row.how == "missing"]
    """
    check_type("adapter", adapter, Adapter)
    file = find_base(base)
    model = load_base(file)
    problem = None
    with guard_base(file):
        sites = find_sites(model)
        matches = find_matches(adapter, sites, mapping)
        integer = integer_node_types(model)
        try:
            refuse_unmatched(matches, sites, integer, adapter.origin.base_model)
            fit_to_base(adapter, {name: match.sites for name, match in matches.items()})
        except MismatchError as error:
            problem = str(error)
    used = {site.weight_name for match in matches.values() for site in match.sites}
    return MatchTable(
        rows=[
            MatchRow(
                layer=name,
                shape=adapter[name].shape,
                how=match.how,
                places=_site_rows(match.sites),
                candidates=_site_rows(match.candidates),
            )
            for name, match in matches.items()
        ],
        unused=_site_rows([site for site in sites if site.weight_name not in used]),
        integer=sorted(set(integer)),
        problem=problem,
    )


def _site_rows(sites: Sequence[Site]) -> list[SiteRow]:
    return [
        SiteRow(
            node=site.node.name or "", weight=site.weight_name, shape=site.shape, part=site.part
        )
        for site in sites
    ]
