"""Names that the original Stable Diffusion code (LDM, and SDXL's sgm) has for a diffusers UNet.

LDM numbers all blocks of a half in one row, a resnet with its attention or a downsampler being one
each; diffusers numbers them by level. How many blocks a level has is told by the base's own layers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

_BLOCK = re.compile(
    r"(?P<front>(?:.*?_)??)(?P<half>down|up)_blocks_(?P<level>\d+)_"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)_(?P<i>\d+)_(?P<rest>.+)"
)
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = re.compile(r"proj_in|proj_out|transformer_blocks_\d+_.+")
_MIDDLE = re.compile(r"mid_block_(?P<kind>resnets|attentions)_(?P<i>\d+)_(?P<rest>.+)")
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding_linear_1": "time_embed.0",
    "time_embedding_linear_2": "time_embed.2",
    "add_embedding_linear_1": "label_emb.0.0",
    "add_embedding_linear_2": "label_emb.0.2",
    "class_embedding_linear_1": "label_emb.0.0",
    "class_embedding_linear_2": "label_emb.0.2",
}


@dataclass
class _Level:
    """What one level of a half has: numbers of its resnets, attentions and samplers."""

    resnets: set[int] = field(default_factory=set)
    attentions: set[int] = field(default_factory=set)
    downsamplers: set[int] = field(default_factory=set)
    upsamplers: set[int] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Whether resnets are numbered from 0, and each has an attention or none has."""
        every = {*range(len(self.resnets))}
        return bool(every) and self.resnets == every and self.attentions in (set(), every)


_Half = dict[int, _Level]


def ldm_names(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields layers of diffusers UNets with their names in LDM.

    Args:
        names: Canonical names of the base's layers.

    Yields:
        Canonical name, and the name in LDM. Nothing for a UNet whose levels cannot be told for
        certain from its layers: one that is not whole, or is built in another way.
    """
    for front, (down, up) in _find_unets(names).items():
        starts = _number_blocks(down, up)
        if starts is None:
            continue
        for name in names:
            if name.startswith(front) and (own := _translate(name[len(front) :], *starts, up)):
                yield name, f"{front.rstrip('_')}.{own}".lstrip(".")


def _find_unets(names: Collection[str]) -> dict[str, tuple[_Half, _Half]]:
    """Lists the levels of both halves by what stands in front of the UNet's names."""
    found: dict[str, tuple[_Half, _Half]] = {}
    for name in names:
        if block := _BLOCK.fullmatch(name):
            halves = found.setdefault(block["front"], ({}, {}))
            level = halves[block["half"] == "up"].setdefault(int(block["level"]), _Level())
            getattr(level, block["kind"]).add(int(block["i"]))
    return found


def _number_blocks(down: _Half, up: _Half) -> tuple[list[int], list[int]] | None:
    """Returns the number in LDM of every level's first block, down and up.

    None where a level lacks a resnet or sampler, so that the numbers behind it are not certain.
    """
    last = len(down) - 1
    order = {*range(last + 1)}
    if not order or down.keys() != order or up.keys() != order:
        return None
    downs, ups = [1], [0]
    for i in range(last + 1):
        here, mirror = down[i], up[last - i]
        sampled = {0} if i < last else set()
        if not (here.whole and mirror.whole and len(mirror.resnets) == len(here.resnets) + 1):
            return None
        if here.downsamplers != sampled or mirror.upsamplers != ({0} if i else set()):
            return None
        downs.append(downs[-1] + len(here.resnets) + len(sampled))
        ups.append(ups[-1] + len(up[i].resnets))
    return downs, ups


def _translate(name: str, downs: list[int], ups: list[int], up: Mapping[int, _Level]) -> str | None:
    """Returns the name in LDM of one layer, without what stands in front; None for others."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if middle := _MIDDLE.fullmatch(name):
        own = _inside(middle["kind"], middle["rest"])
        return own and f"middle_block.{2 * int(middle['i']) + (middle['kind'] != 'resnets')}.{own}"
    block = _BLOCK.fullmatch(name)
    if block is None or block["front"]:
        return None
    kind, level, i, rest = block["kind"], int(block["level"]), int(block["i"]), block["rest"]
    if kind == "downsamplers":
        return f"input_blocks.{downs[level + 1] - 1}.0.op" if rest == "conv" else None
    if kind == "upsamplers":
        place = 2 if up[level].attentions else 1
        return f"output_blocks.{ups[level + 1] - 1}.{place}.conv" if rest == "conv" else None
    number = f"input_blocks.{downs[level] + i}" if block["half"] == "down" else ""
    number = number or f"output_blocks.{ups[level] + i}"
    own = _inside(kind, rest)
    return own and f"{number}.{int(kind == 'attentions')}.{own}"


def _inside(kind: str, rest: str) -> str | None:
    """Returns the name inside of a resnet or an attention."""
    if kind == "resnets":
        return _RESNET.get(rest)
    return rest if _ATTENTION.fullmatch(rest) else None
