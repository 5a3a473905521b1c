"""Groups the layers that get slots by the input that they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from kronq.errors import UnsupportedError
from kronq.model.adapter import Adapter
from kronq.onnx.graph.join_parts import join_parts
from kronq.onnx.graph.layer_match import Matches
from kronq.onnx.graph.sites import Site
from kronq.onnx.matched_base import MatchedBase
from kronq.onnx.slots.slot_spec import SlotGroup, SlotKernel, SlotMember

_Member = tuple[str, Site]
_Input = tuple[ir.Value | None, ir.DataType, ir.Node | None]
"""What a group reads, and the type that it computes in; a convolution is a group of its own."""


@dataclass(frozen=True, eq=False)
class OpenGroup:
    """A group that is being opened.

    Attributes:
        group: Its description.
        sites: Sites of its members.
        dtype: Type that the base computes in.
        x: The input that all members read.
    """

    group: SlotGroup
    sites: Sequence[Site]
    dtype: ir.DataType
    x: ir.Value

    @cached_property
    def nodes(self) -> list[ir.Node]:
        """Nodes to whose outputs the members add; parts of a fused weight share one."""
        return list({site.last_node: None for site in self.sites})

    @property
    def targets(self) -> tuple[int, ...]:
        """For each member, the number of its node."""
        return tuple(self.nodes.index(site.last_node) for site in self.sites)


def group_layers(base: MatchedBase, most_nodes: int | None) -> Iterator[OpenGroup]:
    """Groups the layers of the base's adapter by the input that they read.

    A group is described when it is asked for: its input may be the sum with another group's slots,
    which are opened before.

    Args:
        base: The base; shapes that it does not state are inferred, in place.
        most_nodes: Nodes of the base that one group may add to; None for any number.

    Raises:
        UnsupportedError: A layer is used twice, or its activations are of unknown rank.
    """
    if any(site.rank is None for site in base.matched_sites):
        ShapeInferencePass()(base.model)
    matches = join_parts(base.model, base.matches)
    _refuse_repeated(matches)
    return (
        _describe_group(some, dtype, base.adapter)
        for (_, dtype, _), members in _members_by_input(matches).items()
        for some in _split_members(members, most_nodes)
    )


def _refuse_repeated(matches: Matches) -> None:
    for layer, sites in matches.items():
        if len(sites) != 1:
            raise UnsupportedError(
                "a layer that the base uses twice can have no slot",
                layer=layer,
                hint="use {form=branch}",
            )


def _members_by_input(matches: Matches) -> dict[_Input, list[_Member]]:
    groups: dict[_Input, list[_Member]] = {}
    for layer, (site,) in matches.items():
        alone = site.node if site.conv is not None else None
        groups.setdefault((site.x, site.dtype, alone), []).append((layer, site))
    return groups


def _split_members(members: list[_Member], most: int | None) -> list[list[_Member]]:
    """Splits a group into ones of at most ``most`` nodes each."""
    nodes = list({site.last_node: None for _, site in members})
    size = most or len(nodes)
    sets = [set(nodes[i : i + size]) for i in range(0, len(nodes), size)]
    return [[member for member in members if member[1].last_node in some] for some in sets]


def _describe_group(members: list[_Member], dtype: ir.DataType, adapter: Adapter) -> OpenGroup:
    name, first = members[0]
    # The input as it is now: where a layer reads another's output, that is the sum with its slot.
    x, rank = first.x, first.rank
    if x is None or rank is None:
        raise UnsupportedError(
            "activations of unknown rank can have no slot", layer=name, hint="use {form=branch}"
        )
    slot_members = tuple(SlotMember(layer=n, d_out=adapter[n].shape[0]) for n, _ in members)
    conv, lead = None, rank - 1
    if first.conv is not None:
        conv, lead = SlotKernel(sizes=first.conv.kernel, groups=first.conv.groups), 1
    group = SlotGroup(name=name, d_in=first.shape[1], lead=lead, members=slot_members, conv=conv)
    return OpenGroup(group, [site for _, site in members], dtype, x)
