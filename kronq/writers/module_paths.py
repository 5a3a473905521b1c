"""Module paths for flattened names, from the base's own files: no dot is guessed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kronq.errors import MismatchError, UnsupportedError, listing
from kronq.io.safetensors_file import open_tensors
from kronq.model.adapter import Adapter
from kronq.model.flat_names import flatten, is_flat, strip_prefix
from kronq.model.layer_names import natural_key

_ENCODER = re.compile(r"te\d*\.")
_WEIGHT = ".weight"


def restore_paths(adapter: Adapter, base: str | None) -> Adapter:
    """Returns the adapter with the base's module paths in place of flattened names.

    Args:
        adapter: Any adapter.
        base: A folder with the base's safetensors files; anything else tells no paths.

    Raises:
        MismatchError: Layers are not in the base, are twice in it, or share a place.
        FormatError: A file of the base is damaged.
    """
    flat = [name for name in adapter if is_flat(name)]
    files = sorted(Path(base).glob("*.safetensors")) if base and flat else []
    if not files:
        return adapter
    paths: dict[str, set[str]] = {}
    for file in files:
        for tensor in open_tensors(file).entries:
            path = tensor.removesuffix(_WEIGHT)
            paths.setdefault(flatten(path), set()).add(path)
    found = {name: paths.get(strip_prefix(name), set()) for name in flat}
    uncertain = [name for name, places in found.items() if len(places) != 1]
    if uncertain:
        raise MismatchError(
            f"{len(uncertain)} of {len(flat)} flattened names are not those of one weight",
            path=base,
            found=listing(uncertain),
            hint="wrong base model?",
        )
    names = {name: found[name].copy().pop() if name in found else name for name in adapter}
    if len(set(names.values())) != len(names):
        raise MismatchError("two layers have one place in the base", path=base)
    layers = {names[name]: delta for name, delta in adapter.items()}
    ordered = {name: layers[name] for name in sorted(layers, key=natural_key)}
    keys = {names[name]: adapter.origin.keys.get(name, name) for name in flat}
    origin = replace(adapter.origin, keys={**adapter.origin.keys, **keys})
    return replace(adapter, layers=ordered, origin=origin)


def refuse_unknown_paths(adapter: Adapter) -> None:
    """Refuses layers that no module of a model is called like: PEFT would leave them out silently.

    Raises:
        UnsupportedError: Names are flattened, or those of a text encoder; all of them are named.
    """
    flat = [name for name in adapter if is_flat(name)]
    if flat:
        raise UnsupportedError(
            "the names are flattened, and where they had dots is not known",
            path=adapter.origin.path,
            found=listing(flat),
            hint="{base_model} with the folder of the base's safetensors files tells it",
        )
    encoders = [name for name in adapter if _ENCODER.match(name)]
    if encoders:
        raise UnsupportedError(
            "layers of a text encoder, which is a model of its own",
            path=adapter.origin.path,
            found=listing(encoders),
            expected="the layers of one model, as a PEFT folder has",
        )
