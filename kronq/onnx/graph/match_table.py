"""What ``kronq export --dry-run`` tells: every layer of the adapter and its place in the base."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from kronq.errors import MismatchError, StrPath
from kronq.model.adapter import Adapter
from kronq.onnx.folder import find_base, load_base
from kronq.onnx.graph.match import find, fit, settled
from kronq.onnx.graph.names import Found
from kronq.onnx.graph.sites import Site, find_sites, integer_nodes


class Place(BaseModel):
    """One linear layer of the base: its node, its weight, [d_out, d_in], a third of it or all."""

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
        places: Where it goes: one, unless the base uses the layer again.
        candidates: Where it might go, when that is not certain.
    """

    model_config = ConfigDict(frozen=True)

    layer: str
    shape: tuple[int, int]
    how: str
    places: list[Place]
    candidates: list[Place]


class MatchTable(BaseModel):
    """Where an adapter goes.

    Attributes:
        rows: All of its layers.
        unused: Linear layers of the base that none of them goes to.
        integer: Types of the base's nodes that no adapter goes beside.
        problem: Why an export would be refused; None where it would not.
    """

    model_config = ConfigDict(frozen=True)

    rows: list[MatchRow]
    unused: list[Place]
    integer: list[str]
    problem: str | None = None


def _row(layer: str, shape: tuple[int, int], found: Found) -> MatchRow:
    return MatchRow(
        layer=layer,
        shape=shape,
        how=found.how,
        places=[_place(site) for site in found.sites],
        candidates=[_place(site) for site in found.candidates],
    )


def _place(site: Site) -> Place:
    return Place(
        node=site.node.name or "", weight=site.weight_name, shape=site.shape, part=site.part
    )


def match_table(
    adapter: Adapter, base: StrPath, mapping: Mapping[str, str] | None = None
) -> MatchTable:
    """Where every layer would go in the base, certain or not; nothing is written.

    Raises:
        MismatchError: The map does not fit.
        FormatError: The base is not a whole ONNX model.
    """
    model = load_base(find_base(base))
    sites = find_sites(model)
    found = find(adapter, sites, mapping)
    integer = integer_nodes(model)
    problem = None
    try:
        fit(adapter, settled(found, sites, integer))
    except MismatchError as error:
        problem = str(error)
    used = {site.weight_name for entry in found.values() for site in entry.sites}
    return MatchTable(
        rows=[_row(name, adapter[name].shape, entry) for name, entry in found.items()],
        unused=[_place(s) for s in sites if s.weight_name not in used],
        integer=sorted(set(integer)),
        problem=problem,
    )
