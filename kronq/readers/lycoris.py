"""LyCORIS and kohya files, LoKr and LoRA: ``lycoris_…``, ``lora_unet_…``, and dotted keys.

LyCORIS flattens module paths (``model.layers.0.self_attn.q_proj`` becomes
``lycoris_model_layers_0_self_attn_q_proj``). The table of ``known_paths`` gives them their dots
back. Every other key stays whole as the layer's name, and an export compares it with the base's
names flattened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from kronq import limits
from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import Tensors
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from kronq.model.flat_names import is_flat, strip_prefix
from kronq.model.layer_names import natural_key
from kronq.model.matrix import Float
from kronq.readers import lokr
from kronq.readers.known_paths import restore_dots
from kronq.readers.options import Options
from kronq.readers.scale_rule import LARGEST_SCALE, scale_of

_UP, _DOWN, _MID = "lora_up.weight", "lora_down.weight", "lora_mid.weight"
_PARTS = (*lokr.PARTS, *lokr.CONVOLUTION_PARTS, _UP, _DOWN, _MID, "alpha", "dora_scale", "scalar")
_KEY = re.compile(rf"(?P<layer>.+)\.(?P<part>{'|'.join(map(re.escape, _PARTS))})")
_ENCODER = re.compile(r"(?P<encoder>te\d*)_(?P<rest>.+)")
_PIPELINE = re.compile(r"diffusion_model\.|transformer\.(?=(single_)?transformer_blocks\.)")
"""Fronts of dotted keys: the part of a pipeline that they belong to, and no module of it."""


def detect(path: Path) -> bool:
    """Tells whether a path is a safetensors file with LoKr or LoRA tensors."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    marks = (".lokr_w", f".{_UP}", f".{_DOWN}")
    return any(mark in name for name in open_tensors(path).entries for mark in marks)


def read(path: Path, options: Options) -> Adapter:
    """Reads a LyCORIS file.

    Raises:
        FormatError: Incomplete factors, or an absurd α.
        UnsupportedError: Convolutions, DoRA, or tensors of another algorithm.
    """
    file = open_tensors(path)
    if any(tensor.startswith("base_model.model.") for tensor in file.entries):
        raise FormatError(
            "PEFT's weights without their adapter_config.json, which has alpha and the rank",
            path=path,
            hint="put both in a folder, the weights named adapter_model.safetensors",
        )
    layers: dict[str, Delta] = {}
    groups = lokr.group_tensors(file, _split_names(file))
    front = next((match[0] for key in groups if (match := _PIPELINE.match(key))), "")
    for key, parts in groups.items():
        layer = module_path(key.removeprefix(front))
        if layer in layers:
            raise FormatError("two keys name one layer", path=path, layer=layer, found=key)
        a, b, rank = _read_factors(file, layer, parts)
        alpha = options.alpha
        if alpha is None and "alpha" in parts:  # infinite, maybe, where no rule uses it
            alpha = file.number(parts["alpha"])
        rule = options.scale_rule or "lycoris"
        scale = scale_of(rule, alpha=alpha, rank=rank, path=path, layer=layer)
        # The scalar is trained; a regular save folds it into a factor.
        scalar = _read_scalar(file, parts.get("scalar"))
        if abs(scale * scalar) > LARGEST_SCALE:
            raise FormatError(
                "the scale is absurd",
                path=path,
                layer=layer,
                found=f"{scale:g} times a scalar of {scalar:g}",
                expected=f"at most {LARGEST_SCALE:g}",
            )
        scale *= scalar
        layers[layer] = Delta.uncropped(a, b, scale)
    if not layers:
        raise FormatError("no adapted layers", path=path)
    ordered = {name: layers[name] for name in sorted(layers, key=natural_key)}
    base = file.metadata.get("ss_base_model_version") or file.metadata.get("ss_sd_model_name")
    return Adapter(ordered, Origin("lycoris", path, file.size, base))


def _split_names(file: Tensors) -> dict[str, tuple[str, str]]:
    """Returns tensor name → (key of a layer, part)."""
    names, unknown = {}, []
    for tensor in file.entries:
        match = _KEY.fullmatch(tensor)
        if match:
            names[tensor] = (match["layer"], match["part"])
        else:
            unknown.append(tensor)
    if unknown:
        raise UnsupportedError(
            "tensors that are neither LoKr's nor LoRA's", path=file.path, found=listing(unknown)
        )
    return names


def module_path(key: str) -> str:
    """Returns the module path that a key stands for; the key itself where that is not known."""
    if not is_flat(key):
        return key
    name = strip_prefix(key)
    encoder = _ENCODER.fullmatch(name)
    path = restore_dots(encoder["rest"] if encoder else name)
    if path is None:
        return key
    return f"{encoder['encoder']}.{path}" if encoder else path


def _read_factors(
    file: Tensors, layer: str, parts: Mapping[str, str]
) -> tuple[Product, Product, int | None]:
    """Reads A and B of one layer, and the rank that α is divided by.

    Raises:
        FormatError: Factors of both kinds, missing ones, or others that do not multiply.
    """
    lora = [part for part in (_UP, _DOWN) if part in parts]
    if not lora:
        factors = lokr.read_factors(file, layer, parts)
        return factors.a, factors.b, factors.rank
    matrices = {part: Float(file.matrix(parts[part])) for part in lora}
    others = [part for part in lokr.PARTS if part in parts]
    if others or len(lora) != 2 or matrices[_UP].shape[1] != matrices[_DOWN].shape[0]:
        found = [f"{part} {list(matrix.shape)}" for part, matrix in matrices.items()]
        raise FormatError(
            "incomplete or mismatched factors",
            path=file.path,
            layer=layer,
            found=", ".join(others + found),
            expected="lora_down [r, d_in] and lora_up [d_out, r]",
        )
    b = Product(matrices[_UP], matrices[_DOWN])
    limits.RANK.check(b.rank, file.path, layer)
    return ONE, b, b.rank


def _read_scalar(file: Tensors, tensor: str | None) -> float:
    """Returns what multiplies w1: 1 where the file has no scalar."""
    value = 1.0 if tensor is None else file.number(tensor)
    if not math.isfinite(value):
        raise FormatError(f"{tensor!r} is not finite", path=file.path, found=value)
    return value
