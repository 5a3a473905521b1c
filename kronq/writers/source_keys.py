"""Keys of layers in files of LyCORIS and kohya's scripts: the source's own, or flattened paths."""

from __future__ import annotations

import re

from kronq.errors import UnsupportedError, listing
from kronq.model.adapter import Adapter
from kronq.model.flat_names import flatten, is_flat

_ENCODER = re.compile(r"te\d*\.")


def source_keys(adapter: Adapter, front: str) -> dict[str, str]:
    """Returns layer → its key: that of the source's file, else its path with underscores for dots.

    Args:
        adapter: Any adapter.
        front: Front of flattened keys, as ``lycoris_``; those of text encoders begin with
            ``lora_te``.

    Raises:
        UnsupportedError: Two layers would have one key.
    """
    origin = adapter.origin
    dotted = origin.format == "lycoris" or bool(origin.keys)  # other names are keys already
    keys: dict[str, str] = {}
    for name in adapter:
        if name in origin.keys:
            keys[name] = origin.keys[name]
        elif dotted or is_flat(name):
            keys[name] = name
        else:
            keys[name] = ("lora_" if _ENCODER.match(name) else front) + flatten(name)
    places: dict[str, list[str]] = {}
    for name, key in keys.items():
        places.setdefault(key, []).append(name)
    shared = [name for names in places.values() if len(names) > 1 for name in names]
    if shared:
        raise UnsupportedError(
            "layers whose names are the same without their dots",
            path=origin.path,
            found=listing(shared),
            hint="{to=peft} keeps the dots",
        )
    return keys
