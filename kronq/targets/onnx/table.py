"""What ``kronq export --dry-run`` tells: every layer of the adapter and its place in the base."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from kronq.targets.onnx.names import Found
from kronq.targets.onnx.sites import Site


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
    """All layers; linear layers of the base without one; node types that no adapter fits."""

    model_config = ConfigDict(frozen=True)

    rows: list[MatchRow]
    unused: list[Place]
    integer: list[str]


def row(layer: str, shape: tuple[int, int], found: Found) -> MatchRow:
    return MatchRow(
        layer=layer,
        shape=shape,
        how=found.how,
        places=[place(site) for site in found.sites],
        candidates=[place(site) for site in found.candidates],
    )


def place(site: Site) -> Place:
    return Place(
        node=site.node.name or "", weight=site.weight_name, shape=site.shape, part=site.part
    )
