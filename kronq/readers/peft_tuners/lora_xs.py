"""LoRA-XS (arXiv 2405.17604) as PEFT saves it: ΔW = s · lora_B · R · lora_A, with R trained alone.

R's name depends on PEFT: up to 0.13 ``q_proj_lora_latent_mapping.weight``, later
``q_proj.default_lora_latent_mapping.weight``. Stock PEFT knows neither, and runs B·A.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kronq.cores.sources import StoredBases
from kronq.errors import FormatError, KronqError
from kronq.io.json_file import read_json
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import Tensors
from kronq.model.delta import Delta, Product
from kronq.model.frozen_bases import BasisRecipe
from kronq.model.matrix import F32, Float
from kronq.readers.peft_config import WEIGHTS
from kronq.readers.peft_names import unwrap_name
from kronq.readers.peft_tuners.parts import ADAPTER_NAME, split_names

RECONSTRUCTION = "reconstr_config.json"
"""LoRA-XS's own settings, in the adapter's folder or in the one above it."""
_R = re.compile(r"(?P<module>.+)_lora_latent_mapping\.weight")
_KEY = rf"(?P<layer>.+)\.(?P<part>lora_[AB]){ADAPTER_NAME}\.weight"


def find_mappings(tensors: Tensors) -> dict[str, str]:
    """Returns tensor name of R → name of its module, with or without the adapter's name."""
    matches = {name: _R.fullmatch(unwrap_name(name)) for name in tensors.entries}
    return {name: match["module"] for name, match in matches.items() if match}


def fold_mappings(
    tensors: Tensors, layers: Mapping[str, Delta], mappings: Mapping[str, str]
) -> dict[str, Delta]:
    """Returns the layers with B·R in place of B.

    Raises:
        FormatError: R is missing, twice there, belongs to no layer, or does not fit.
    """
    if not mappings:
        _refuse_lost(tensors.path)
        return dict(layers)
    folded: dict[str, Delta] = {}
    for tensor, module in mappings.items():
        name = module if module in layers else module.rpartition(".")[0]
        if name not in layers or name in folded:
            raise FormatError(f"no layer for tensor {tensor!r}, or a second one", path=tensors.path)
        folded[name] = _fold(tensors, name, layers[name], Float(tensors.matrix(tensor)))
    lacking = [name for name in layers if name not in folded]
    if lacking:
        raise FormatError(
            "the layer has no lora_latent_mapping (R), which others have",
            path=tensors.path,
            layer=lacking[0],
            found=f"{len(lacking)} such layers",
        )
    return folded


def _fold(tensors: Tensors, name: str, delta: Delta, mapping: Float) -> Delta:
    b, a = delta.b.matrices
    if mapping.shape != (delta.rank, delta.rank):
        raise FormatError(
            "lora_latent_mapping (R) has another shape",
            path=tensors.path,
            layer=name,
            found=list(mapping.shape),
            expected=[delta.rank, delta.rank],
        )
    left = b.float32().astype(np.float64) @ mapping.float32().astype(np.float64)
    return replace(delta, b=Product(Float(left.astype(np.float32)), a))


def _refuse_lost(path: Path | None) -> None:
    """Refuses a LoRA-XS adapter that was saved by a program that does not know R.

    Raises:
        FormatError: Its settings say that it has R.
    """
    settings = None if path is None else read_settings(path.parent)
    if settings is not None and settings.get("r_squared"):
        raise FormatError(
            "a LoRA-XS adapter without its trained matrices R",
            path=path,
            expected="tensors ….lora_latent_mapping.weight",
            hint=f"save it with LoRA-XS's own code; if it is a plain LoRA, move {RECONSTRUCTION}",
        )


def read_recipe(folder: Path | None) -> BasisRecipe:
    """Returns how an adapter's bases were made of the base, by the settings beside it."""
    settings = None if folder is None else read_settings(folder)
    svd = (settings or {}).get("svd")
    svd = svd if isinstance(svd, dict) else {}
    usual = BasisRecipe()
    n_iter, seed = svd.get("n_iter", usual.n_iter), svd.get("random_state", usual.seed)
    if not all(type(n) is int and 0 <= n < 2**32 for n in (n_iter, seed)) or n_iter > 1000:
        raise FormatError(
            "bad svd settings", path=folder, found=f"n_iter {n_iter!r}, random_state {seed!r}"
        )
    return BasisRecipe(n_iter, seed)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Returns LoRA-XS's own settings, in an adapter's folder or above it; None without them."""
    for file in (folder / RECONSTRUCTION, folder.absolute().parent / RECONSTRUCTION):
        if file.is_file():
            try:
                return read_json(file)
            except KronqError:
                return None
    return None


def open_pairs(folder: Path) -> StoredBases:
    """Opens the frozen lora_B and lora_A of a LoRA-XS folder as bases.

    Raises:
        FormatError: They are incomplete, or there is no R: they are then not frozen.
    """
    tensors = open_tensors(folder / WEIGHTS)
    mappings = find_mappings(tensors)
    if not mappings:
        raise FormatError(
            "no LoRA-XS adapter, so no frozen bases",
            path=folder,
            expected="tensors ….lora_latent_mapping.weight",
        )
    layers: dict[str, dict[str, str]] = {}
    for tensor, (layer, part) in split_names(tensors, _KEY, apart=mappings).items():
        layers.setdefault(layer, {})[part] = tensor
    pairs = {n: partial(_pair, tensors, p) for n, p in layers.items() if len(p) == 2}
    return StoredBases(folder, None, pairs, {})


def _pair(tensors: Tensors, parts: Mapping[str, str]) -> tuple[F32, F32]:
    b, a = (Float(tensors.matrix(parts[part])).float32() for part in ("lora_B", "lora_A"))
    return b, a
