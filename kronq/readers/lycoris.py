"""Files of LyCORIS, kohya's scripts and trainers of image models: LoKr, LoRA, LoCon and LoHa.

LyCORIS flattens module paths (``model.layers.0.self_attn.q_proj`` becomes
``lycoris_model_layers_0_self_attn_q_proj``). The table of ``known_paths`` gives them their dots
back. Every other key stays whole as the layer's name, and an export compares it with the base's
names flattened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kronq.errors import FormatError, MismatchError, listing
from kronq.io.base_weights import BaseWeights, open_base
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import Tensors
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import Delta
from kronq.model.layer_names import natural_key
from kronq.readers import locon, loha, lokr
from kronq.readers.diffusers_metadata import SavedSettings
from kronq.readers.expansion import check_expansion
from kronq.readers.kernels import complete_kernels
from kronq.readers.layer_factors import LayerFactors, Parts
from kronq.readers.lycoris_keys import LayerKeys, is_lycoris, module_path, split_keys
from kronq.readers.magnitudes import read_magnitude
from kronq.readers.options import Options
from kronq.readers.scale_rule import LARGEST_SCALE, ScaleRule, scale_of

__all__ = ["detect", "module_path", "read"]

_READERS = {
    "lokr_": (lokr.PARTS, lokr.read_lokr),
    "lora_": (locon.PARTS, locon.read_locon),
    "hada_": (loha.PARTS, loha.read_loha),
}
"""Front of the parts of an algorithm → its parts and reader."""


def detect(path: Path) -> bool:
    """Tells whether a path is a safetensors file with LoKr, LoRA or LoHa tensors."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    return is_lycoris(open_tensors(path).entries)


def read(path: Path, options: Options) -> Adapter:
    """Reads a LyCORIS file.

    Raises:
        FormatError: Incomplete factors, or an absurd α.
        UnsupportedError: Tensors of another algorithm, or convolutions whose kernels are unknown.
    """
    file = open_tensors(path)
    if any(tensor.startswith("base_model.model.") for tensor in file.entries):
        raise FormatError(
            "PEFT's weights without their adapter_config.json, which has alpha and the rank",
            path=path,
            hint="put both in a folder, the weights named adapter_model.safetensors",
        )
    base_weights = None if options.base_weights is None else open_base(options.base_weights)
    groups, carried = split_keys(file, base_weights)
    if base_weights is not None:
        _check_base(file, groups, base_weights)
    if not groups:
        raise FormatError("no adapted layers", path=path, found=_describe(carried))
    check_expansion(Parts(file, name, keys.parts) for name, keys in groups.items())
    factors = {name: _read_factors(file, name, keys.parts) for name, keys in groups.items()}
    base = file.metadata.get("ss_base_model_version") or file.metadata.get("ss_sd_model_name")
    architecture = base or file.metadata.get("modelspec.architecture")
    kernels = complete_kernels(factors, path, options, architecture)
    settings = SavedSettings.of(file)
    layers = {}
    for name in sorted(groups, key=natural_key):
        a, b = factors[name].a, factors[name].b
        scale = _scale(file, name, groups[name], factors[name].rank, options, settings)
        delta = Delta.uncropped(a, b, scale, kernels[name])
        magnitude = read_magnitude(Parts(file, name, groups[name].parts), "dora_scale", delta)
        layers[name] = replace(delta, magnitude=magnitude)
    keys = {name: groups[name].key for name in layers if groups[name].key != name}
    rule = options.scale_rule or _rule(groups, settings)
    origin = Origin(
        *("lycoris", path, file.size, base), keys=keys, tensors=file.path, scale_rule=rule
    )
    return Adapter(layers, origin, carried={tensor: file.any_array(tensor) for tensor in carried})


def _rule(groups: Mapping[str, LayerKeys], settings: SavedSettings) -> ScaleRule:
    """Returns the rule of the file's scales: the saved settings' where no layer has an α."""
    if any("alpha" in keys.parts for keys in groups.values()):
        return "lycoris"
    return next((settings.alpha(keys.key)[1] for keys in groups.values()), "lycoris")


def _check_base(file: Tensors, names: Iterable[str], base: BaseWeights) -> None:
    """Refuses a base that has no layer of the adapter; text encoders' names have a front more."""
    layers = frozenset(base.layers)
    names = [*names]
    if names and not any(n in layers or n.partition(".")[2] in layers for n in names):
        raise MismatchError(
            "no layer of the adapter is in the base",
            path=file.path,
            found=listing(names),
            expected=f"names like {listing(layers).short}",
            hint="{base_weights} names another model's folder?",
            code="layers-not-in-base",
        )


def _describe(carried: Sequence[str]) -> str | None:
    """Says what a file without adapted layers has."""
    whole = sum(tensor.endswith(".diff") for tensor in carried)
    if whole:
        return f"whole weights of LyCORIS's algorithm full: {whole}"
    return f"trained parts that are no update of a layer: {len(carried)}" if carried else None


def _read_factors(file: Tensors, layer: str, names: Mapping[str, str]) -> LayerFactors:
    """Reads A and B of one layer.

    Raises:
        FormatError: Factors of two kinds, missing ones, or others that do not multiply.
    """
    kinds = [front for front, (parts, _) in _READERS.items() if any(p in names for p in parts)]
    if len(kinds) != 1:
        factors = sorted(part for part in names if part.startswith(tuple(_READERS)))
        raise FormatError(
            "factors of two algorithms in one layer" if kinds else "a layer without factors",
            path=file.path,
            layer=layer,
            found=", ".join(factors or sorted(names)),
            code="factors",
        )
    _, reader = _READERS[kinds[0]]
    return reader(Parts(file, layer, names))


def _scale(
    file: Tensors,
    layer: str,
    keys: LayerKeys,
    rank: int | None,
    options: Options,
    settings: SavedSettings,
) -> float:
    """Returns a layer's scale, its trained scalar included.

    Raises:
        FormatError: It is not finite, or absurd.
    """
    alpha = options.alpha
    if alpha is None and "alpha" in keys.parts:  # infinite, maybe, where no rule uses it
        alpha = file.number(keys.parts["alpha"])
    rule = options.scale_rule or "lycoris"
    if alpha is None:
        alpha, saved_rule = settings.alpha(keys.key)
        rule = options.scale_rule or saved_rule
    scale = scale_of(rule, alpha=alpha, rank=rank, path=file.path, layer=layer)
    scalar = _read_scalar(file, keys.parts.get("scalar"))
    if abs(scale * scalar) > LARGEST_SCALE:
        raise FormatError(
            "the scale is absurd",
            path=file.path,
            layer=layer,
            found=f"{scale:g} times a scalar of {scalar:g}",
            expected=f"at most {LARGEST_SCALE:g}",
            code="scale",
        )
    return scale * scalar


def _read_scalar(file: Tensors, tensor: str | None) -> float:
    """Returns what multiplies a factor: 1 where the file has no scalar, as a regular save has."""
    value = 1.0 if tensor is None else file.number(tensor)
    if not math.isfinite(value):
        raise FormatError(
            f"{tensor!r} is not finite", path=file.path, found=value, code="not-finite"
        )
    return value
