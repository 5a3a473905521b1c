"""The models of a pipeline's folder, and which layers of an adapter go to which of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kronq.errors import FormatError, MismatchError, StrPath, UnsupportedError, listing
from kronq.io.json_file import read_json
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.onnx.base_folder import MODEL

INDEX = "model_index.json"
DENOISERS = ("unet", "transformer", "prior")
_ENCODER = re.compile(r"(?:lora_|lycoris_)?(?:te|text_encoder)_?(?P<number>[1-9])?[._](?P<rest>.+)")
"""``te1.`` and ``lora_te1_`` of kohya's scripts, ``text_encoder_2.`` of diffusers."""
_BUNDLED = re.compile(
    r"(?:lora_)?text_encoders[._](?P<kind>clip_l|clip_g|t5xxl)[._](?:transformer[._])?(?P<rest>.+)"
)
"""ComfyUI's names of the encoders in a file with all of them."""
_KINDS = {
    "clip_l": ("text_encoder",),
    "clip_g": ("text_encoder_2",),
    "t5xxl": ("text_encoder_3", "text_encoder_2"),
}


@dataclass(frozen=True, eq=False)
class Part:
    """One model of a pipeline, and its part of an adapter.

    Attributes:
        name: Its subfolder, such as ``unet``.
        adapter: The layers that go to it, by their names in the model.
        names: Name in the model → name in the whole adapter.
    """

    name: str
    adapter: Adapter
    names: Mapping[str, str]


def is_pipeline(base: StrPath) -> bool:
    """Tells whether a path is a folder of a diffusers pipeline."""
    return Path(base, INDEX).is_file()


def model_parts(base: Path) -> list[str]:
    """Returns the subfolders of a pipeline that have an ONNX model.

    Raises:
        FormatError: None of them is the model that makes the image, or model_index.json is damaged.
    """
    if is_pipeline(base):
        _check_index(base / INDEX)
    parts = sorted(file.parent.name for file in base.glob(f"*/{MODEL}"))
    if not {*parts} & {*DENOISERS}:
        raise FormatError(
            "no ONNX model in the pipeline's folder",
            path=base,
            found=listing(parts) if parts else None,
            expected=" or ".join(f"{name}/{MODEL}" for name in DENOISERS[:2]),
            hint="optimum-onnx exports a pipeline: optimum-cli export onnx -m PIPELINE FOLDER",
        )
    return parts


def _check_index(file: Path) -> None:
    """Refuses an index that is no JSON object, or that names a part outside of the folder."""
    for name in read_json(file):
        if not name or name in (".", "..") or any(sign in name for sign in "/\\\0"):
            raise FormatError(
                "a part of the pipeline has a name that is no folder's",
                path=file,
                found=repr(name),
                expected="one such as unet",
                code="outside",
            )


def split_adapter(adapter: Adapter, parts: Collection[str]) -> list[Part]:
    """Divides an adapter among the models of a pipeline.

    Layers of text encoders are known by the front of their names; all others go to the unet or
    transformer.

    Args:
        adapter: Any adapter.
        parts: As ``model_parts`` returns them.

    Returns:
        The parts that get layers.

    Raises:
        MismatchError: Layers of a text encoder that the pipeline has not.
        UnsupportedError: Trained parts that are no ΔW, of a model that gets no layers.
    """
    names: dict[str, dict[str, str]] = {}
    for layer in adapter:
        part, own = _place(layer, parts)
        other = names.setdefault(part, {}).setdefault(own, layer)
        if other != layer:
            raise FormatError(
                "two layers are one in the pipeline", layer=layer, found=other, expected=part
            )
    absent = sorted(names.keys() - {*parts})
    if absent:
        raise MismatchError(
            "the adapter has layers of a model that the pipeline has not",
            found=f"{absent[0]}: {listing([*names[absent[0]].values()])}",
            expected=listing([*parts]),
            hint="{only} takes the adapter's part",
            code="layers-not-in-base",
        )
    carried = _carried(adapter, parts)
    if others := carried.keys() - names.keys():
        tensors = [tensor for part in others for tensor in carried[part].values()]
        raise UnsupportedError(
            "trained parts of a model that gets no layers", found=listing(tensors)
        )
    taken = {part: _take(adapter, names[part], carried.get(part, {})) for part in names}
    return [Part(part, taken[part], names[part]) for part in parts if part in names]


def _carried(adapter: Adapter, parts: Collection[str]) -> dict[str, dict[str, str]]:
    """Returns model → name of a carried tensor in it → its name in the whole adapter."""
    found: dict[str, dict[str, str]] = {}
    for tensor in adapter.carried:
        key, dot, kind = tensor.rpartition(".")
        part, own = _place(key, parts)
        found.setdefault(part, {})[f"{own}{dot}{kind}"] = tensor
    return found


def _place(layer: str, parts: Collection[str]) -> tuple[str, str]:
    """Returns the model that a layer belongs to, and its name there."""
    bundled = _BUNDLED.fullmatch(layer)
    if bundled:
        kinds = _KINDS[bundled["kind"]]
        return next((kind for kind in kinds if kind in parts), kinds[0]), bundled["rest"]
    encoder = _ENCODER.fullmatch(layer)
    if encoder:
        number = encoder["number"] or "1"
        return "text_encoder" if number == "1" else f"text_encoder_{number}", encoder["rest"]
    return next(name for name in DENOISERS if name in parts), layer


def _take(adapter: Adapter, names: Mapping[str, str], carried: Mapping[str, str]) -> Adapter:
    layers: dict[str, Delta] = {own: adapter[layer] for own, layer in names.items()}
    keys = adapter.origin.keys
    kept = {own: keys[layer] for own, layer in names.items() if layer in keys}
    return replace(
        adapter,
        layers=layers,
        origin=replace(adapter.origin, keys=kept),
        carried={own: adapter.carried[tensor] for own, tensor in carried.items()},
    )
