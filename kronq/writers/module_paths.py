"""Module paths for flattened names, from the base's own files: no dot is guessed."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

from kronq.errors import MismatchError, NotFoundError, UnsupportedError, listing
from kronq.io.base_weights import BaseWeights, open_base
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.flat_names import flatten, is_flat, strip_prefix
from kronq.model.layer_names import natural_key

_ENCODER = re.compile(r"te\d*\.")


def restore_paths(adapter: Adapter, base: str | None) -> Adapter:
    """Returns the adapter with the base's module paths in place of flattened names.

    The base also tells convolutions of size one, whose factors look like a linear layer's.

    Args:
        adapter: Any adapter.
        base: A folder with the base's safetensors files, or a pipeline's folder; anything else
            tells nothing.

    Raises:
        MismatchError: Layers are not in the base, are twice in it, or share a place.
        FormatError: A file of the base is damaged.
    """
    weights = find_base(base)
    if weights is None:
        return adapter
    flat = [name for name in adapter if is_flat(name)]
    known = set(weights.layers)
    paths: dict[str, set[str]] = {}
    for path in known if flat else ():
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
    layers |= {n: _with_kernel(layers[n], weights.whole_shape(n)) for n in layers if n in known}
    ordered = {name: layers[name] for name in sorted(layers, key=natural_key)}
    keys = {names[name]: key for name, key in adapter.origin.keys.items()}
    keys |= {names[name]: adapter.origin.keys.get(name, name) for name in flat}
    return replace(adapter, layers=ordered, origin=replace(adapter.origin, keys=keys))


def find_base(base: str | None) -> BaseWeights | None:
    """Returns the weights of a model's folder, or of a pipeline's; None where there are none."""
    if base is None or not Path(base).is_dir():
        return None
    try:
        return open_base(Path(base))
    except NotFoundError:
        return None


def _with_kernel(delta: Delta, weight: tuple[int, ...]) -> Delta:
    """Returns the layer as a convolution of size one, where the base's weight is one."""
    if delta.kernel or len(weight) < 3 or weight != (*delta.shape, *weight[2:]):
        return delta
    kernel = weight[2:]
    return replace(delta, kernel=kernel) if math.prod(kernel) == 1 else delta


def encoder_alone(adapter: Adapter) -> Adapter:
    """Returns an adapter of one text encoder with that model's own names, without ``te1.``."""
    fronts = {match[0] if (match := _ENCODER.match(name)) else None for name in adapter}
    if len(fronts) != 1 or None in fronts:
        return adapter
    front = str(fronts.pop())
    layers = {name.removeprefix(front): delta for name, delta in adapter.items()}
    keys = {name.removeprefix(front): key for name, key in adapter.origin.keys.items()}
    return replace(adapter, layers=layers, origin=replace(adapter.origin, keys=keys))


def refuse_flat_names(adapter: Adapter) -> None:
    """Refuses layers whose names do not say where their dots were.

    Raises:
        UnsupportedError: There are some; all of them are named.
    """
    flat = [name for name in adapter if is_flat(name)]
    if flat:
        raise UnsupportedError(
            "the names are flattened, and where they had dots is not known",
            path=adapter.origin.path,
            found=listing(flat),
            hint="{base_model} with the folder of the base's safetensors files tells it",
        )


def refuse_unknown_paths(adapter: Adapter) -> None:
    """Refuses layers that no module of a model is called like: PEFT would leave them out silently.

    Raises:
        UnsupportedError: Names are flattened, or those of a text encoder; all of them are named.
    """
    refuse_flat_names(adapter)
    encoders = [name for name in adapter if _ENCODER.match(name)]
    if encoders:
        raise UnsupportedError(
            "layers of a text encoder, which is a model of its own",
            path=adapter.origin.path,
            found=listing(encoders),
            expected="the layers of one model, as a PEFT folder has",
            hint=f"{{only=^{encoders[0].partition('.')[0]}\\.}} takes that model alone",
        )
