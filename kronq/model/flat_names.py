"""Flattened names: layers whose source wrote underscores for the dots of their path.

LyCORIS and kohya's scripts write ``lora_unet_single_blocks_0_linear1``, which does not say which
underscores were dots. Where no table tells, the whole key is the layer's name until a base does.
"""

from __future__ import annotations

import re

PREFIX = re.compile(r"(lycoris_|lora_unet_|lora_(?=te\d*_)|lora_)")
"""Fronts of flattened keys. ``te``, ``te1`` … tell which text encoder, and stay."""


def is_flat(name: str) -> bool:
    """Tells whether a layer's name is a flattened key, whose dots nothing has told yet."""
    return "." not in name and PREFIX.match(name) is not None


def strip_prefix(name: str) -> str:
    """Returns a layer's name without the front of a flattened key."""
    return PREFIX.sub("", name, count=1) if is_flat(name) else name


def flatten(path: str) -> str:
    """Returns a module path as flattened keys have it, without their front."""
    return path.replace(".", "_")
