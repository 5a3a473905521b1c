"""A file that diffusers' pipelines load, and ``load_lora_adapter`` of its models.

diffusers takes α for the rank, so the scale is in the factors. All pipelines load LoRA; those of
Flux 2 and Z-Image load LoKr too (diffusers 0.42), and get the adapter's own factors.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from kronq.errors import KronqError, MismatchError, UnsupportedError, listing
from kronq.io.json_file import read_json
from kronq.io.tensor_writer import Tensor
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta, Product
from kronq.model.made_float import MadeFloat
from kronq.model.matrix import F32
from kronq.model.plain import refuse_carried, refuse_magnitudes
from kronq.readers.known_paths import known_layer
from kronq.readers.peft_names import PREFIX
from kronq.writers.contents import FileContents, Request, write_file
from kronq.writers.diffusers_metadata import diffusers_metadata
from kronq.writers.lora_factors import lora_layers
from kronq.writers.module_paths import find_base, refuse_flat_names
from kronq.writers.peft import to_peft
from kronq.writers.peft_config import ranks_and_alphas

_ENCODER = re.compile(r"te(?P<number>\d*)\.(?P<rest>.+)")
_UNET = re.compile(r"(down_blocks|mid_block|up_blocks|(time|add)_embedding|conv_(in|out))\b")
_MAKERS = re.compile(
    r"(input_blocks|middle_block|output_blocks|double_blocks|single_blocks|joint_blocks"
    r"|final_layer|label_emb|head\.head|blocks\.\d+\.(self_attn|cross_attn))\b"
)
"""Names that the makers of models gave to modules, which diffusers calls otherwise."""
_LOKR = re.compile(
    r"single_transformer_blocks\.\d+\.attn\.to_qkv_mlp_proj$|(double|single)_stream_modulation"
    r"|(layers|noise_refiner|context_refiner)\.\d+\.(attention\.to_|feed_forward\.w)"
)
"""Names that Flux 2 and Z-Image alone have."""
_LOKR_MODELS = ("Flux2Transformer2DModel", "ZImageTransformer2DModel")


write = write_file


def build(adapter: Adapter, request: Request) -> FileContents:
    """Builds the file of ``--to diffusers``.

    Raises:
        UnsupportedError: Names are not those of diffusers' modules, or parts have no place there.
        MismatchError: Layers are not in the base.
    """
    refuse_flat_names(adapter)
    _check_names(adapter, request.base_model)
    refuse_carried(adapter, "a file for diffusers", "{to=lycoris} keeps them")
    refuse_magnitudes(adapter, "a file for diffusers", "{to=lycoris} keeps them")
    lokr = adapter.family == "kron" and request.rank is None
    if lokr and _takes_lokr(adapter, request.base_model):
        try:
            return _lokr_file(adapter, request)
        except UnsupportedError:  # shapes that PEFT's LoKr does not have, in diffusers either
            pass
    return _lora_file(adapter, request)


def _lora_file(adapter: Adapter, request: Request) -> FileContents:
    layers = lora_layers(adapter)
    ranks = {name: layer.rank for name, layer in layers.items()}
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[str, int]] = {}
    for name, layer in layers.items():
        part, path = _place(name, adapter)
        up, down = layer.with_alpha(layer.rank).tensors()
        tensors[f"{part}.{path}.lora_A.weight"] = down.tensor(request.dtype, name)
        tensors[f"{part}.{path}.lora_B.weight"] = up.tensor(request.dtype, name)
        parts.setdefault(part, {})[path] = layer.rank
    settings = [
        ({**ranks_and_alphas("lora_alpha", each, each), "target_modules": [*each]}, f"{part}.")
        for part, each in parts.items()
    ]
    return FileContents("lora", ranks, tensors, diffusers_metadata(*settings))


def _lokr_file(adapter: Adapter, request: Request) -> FileContents:
    folded = {name: _fold_scale(delta) for name, delta in adapter.items()}
    folder = to_peft(replace(adapter, layers=folded), dtype=request.dtype)
    tensors = {f"transformer.{n.removeprefix(PREFIX)}": t for n, t in folder.tensors.items()}
    metadata = diffusers_metadata((folder.config, "transformer."))
    return FileContents("kron", folder.ranks, tensors, metadata)


def _fold_scale(delta: Delta) -> Delta:
    """Returns the same ΔW with a scale of 1, -1 or 0."""
    if abs(delta.scale) in (0.0, 1.0):
        return delta
    left = delta.a.left

    def scaled() -> F32:
        return (left.float32().astype(np.float64) * abs(delta.scale)).astype(np.float32)

    a = Product(MadeFloat(left.shape, scaled), delta.a.right)
    return replace(delta, a=a, scale=float(np.sign(delta.scale)))


def _place(name: str, adapter: Adapter) -> tuple[str, str]:
    """Returns the part of a pipeline that a layer belongs to, and its path there."""
    encoder = _ENCODER.fullmatch(name)
    if encoder is None:
        return ("unet" if any(map(_UNET.match, adapter)) else "transformer"), name
    number = int(encoder["number"] or 1)
    return ("text_encoder" if number == 1 else f"text_encoder_{number}"), encoder["rest"]


def _check_names(adapter: Adapter, base: str | None) -> None:
    """Refuses layers whose names are not those of diffusers' modules."""
    names = [name for name in adapter if not _ENCODER.match(name)]
    weights = find_base(base)
    if weights is not None:
        known = set(weights.layers)
        missing = [name for name in names if name not in known]
        if missing:
            raise MismatchError(
                f"{len(missing)} of {len(names)} layers are not in the base",
                path=base,
                found=listing(missing),
                hint="wrong base model?",
                code="layers-not-in-base",
            )
        return
    makers = [name for name in names if _MAKERS.match(name)]
    strange = makers or [name for name in names if not _is_image_layer(name)]
    if strange:
        raise UnsupportedError(
            "names of modules as the model's makers have them, not diffusers"
            if makers
            else "layers of no image model that kronq knows",
            path=adapter.origin.path,
            found=listing(strange),
            hint="pipelines of diffusers read many of {to=kohya-lora}"
            if makers
            else "a language model's adapter takes {to=peft} or {to=lora}; of an image model, "
            "{base_model} with its folder, as diffusers saves it",
        )


def _is_image_layer(name: str) -> bool:
    known = known_layer(name)
    return known is not None and known.image


def _takes_lokr(adapter: Adapter, base: str | None) -> bool:
    if any(map(_ENCODER.match, adapter)):
        return False
    for folder in (base, f"{base}/transformer") if base else ():
        try:
            return read_json(Path(folder) / "config.json").get("_class_name") in _LOKR_MODELS
        except KronqError:
            continue
    return any(map(_LOKR.match, adapter))
