"""Weights of a base by layer, from the safetensors of a folder of transformers or diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, MismatchError, NotFoundError
from kronq.io.json_file import read_json
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import FLOATS

_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
_PARTS = ("unet", "transformer")
"""Folders of a pipeline that have the model that adapters are trained for."""
_SUFFIX = ".weight"


@dataclass(frozen=True)
class BaseWeights:
    """Weights of a folder.

    Attributes:
        folder: A Hugging Face folder.
        files: Tensor → its file.
    """

    folder: Path
    files: Mapping[str, Path]

    @cached_property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Module path → (d_out, d_in) of every weight that is a matrix."""
        layers = {}
        for name, file in self.files.items():
            shape = open_tensors(file).entries[name].shape
            if name.endswith(_SUFFIX) and len(shape) == 2:
                layers[name.removesuffix(_SUFFIX)] = (shape[0], shape[1])
        return layers

    def shape(self, layer: str) -> tuple[int, int]:
        """Returns the shape of a layer's weight, which is not read.

        Raises:
            MismatchError: The base has no such layer, or its weight is no matrix.
        """
        shape = self.whole_shape(layer)
        if len(shape) != 2:
            raise MismatchError(
                "the base's weight is no matrix",
                path=self.files[self._find(layer)],
                layer=layer,
                found=list(shape),
            )
        return shape[0], shape[1]

    def whole_shape(self, layer: str) -> tuple[int, ...]:
        """Returns the shape of a layer's weight, which is not read; a convolution's has more.

        Raises:
            MismatchError: The base has no such layer.
        """
        name = self._find(layer)
        return open_tensors(self.files[name]).entries[name].shape

    @property
    def layers(self) -> list[str]:
        """Module paths that have a weight."""
        return [name.removesuffix(_SUFFIX) for name in self.files if name.endswith(_SUFFIX)]

    def weight(self, layer: str) -> NDArray[np.float32]:
        """Returns the weight of a layer.

        Raises:
            MismatchError: The base has no such layer, or it is quantized.
        """
        name = self._find(layer)
        file = open_tensors(self.files[name])
        entry = file.entries[name]
        if entry.dtype not in (*FLOATS, "F64") or len(entry.shape) != 2:
            raise MismatchError(
                "the base's weight is no floating-point matrix",
                path=file.path,
                layer=layer,
                found=f"{entry.dtype} {list(entry.shape)}",
                expected="the weights that the adapter was trained on",
            )
        return np.asarray(file.matrix(name), dtype=np.float32)

    def _find(self, layer: str) -> str:
        """Returns the tensor of a layer; prefixes of whole models may differ."""
        name = layer + _SUFFIX
        if name in self.files:
            return name
        ends = [t for t in self.files if t.endswith(f".{name}") or name.endswith(f".{t}")]
        if len(ends) != 1:
            raise MismatchError(
                "the base has no such layer",
                path=self.folder,
                layer=layer,
                hint="is it the model that the adapter was trained for?",
                code="layers-not-in-base",
            )
        return ends[0]


def open_base(folder: Path) -> BaseWeights:
    """Opens a model's folder, or the one in a pipeline's folder.

    Raises:
        NotFoundError: It has no safetensors, or lacks a part of them.
        FormatError: Its index is damaged.
    """
    places = (folder, *(folder / part for part in _PARTS))
    for place in places:
        for file in _FILES:
            whole, index = place / file, place / f"{file}.index.json"
            if whole.is_file():
                return BaseWeights(place, dict.fromkeys(open_tensors(whole).entries, whole))
            if index.is_file():
                return _open_parts(place, index)
    for place in places:  # variants, such as diffusion_pytorch_model.fp16.safetensors
        if variants := sorted(place.glob("*.safetensors")):
            tensors = {name: file for file in variants for name in open_tensors(file).entries}
            found = BaseWeights(place, tensors)
            if found.layers:  # packed adapters have none
                return found
    raise NotFoundError(
        "no weights of a base",
        path=folder,
        expected=f"{_FILES[0]}, or parts with {_FILES[0]}.index.json",
    )


def _open_parts(folder: Path, index: Path) -> BaseWeights:
    parts = read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
        raise FormatError("no 'weight_map' in it", path=index)
    return BaseWeights(folder, {name: folder / part for name, part in parts.items()})
