"""Basis files: frozen bases of many layers, written once for every adapter of a base and rank.

A safetensors file with ``<layer>.A`` [r, d_in] and ``<layer>.B`` [d_out, r] in float32, and under
the metadata key ``kronq_basis`` JSON: ``version``, the ``recipe`` if they were made of a base's
weights, and ``layers``: layer → [digest of its bases, digest of the weight that they are made of].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kronq import limits
from kronq.cores.sources import Pair, StoredBases, pair_digest
from kronq.errors import FormatError, StrPath
from kronq.io.files import write_file
from kronq.io.refused_field import first_refused
from kronq.io.safetensors_file import TensorFile, open_tensors
from kronq.io.tensor_writer import tensor_bytes
from kronq.model.frozen_bases import BasisRecipe
from kronq.model.matrix import Float

KEY = "kronq_basis"
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    n_iter: int
    seed: int


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)] = 1
    recipe: _Recipe | None = None
    layers: dict[str, tuple[_Digest] | tuple[_Digest, _Digest]]


def write_basis_file(
    path: StrPath,
    layers: Iterable[tuple[str, Pair, bytes | None]],
    recipe: BasisRecipe | None,
    *,
    force: bool = False,
) -> Path:
    """Writes a basis file, whole or not at all.

    Args:
        path: The file.
        layers: (layer, its B and A, digest of the weight that they are made of).
        recipe: How they are made; None if they were taken from an adapter.
        force: Overwrites an existing file.
    """
    tensors, digests = {}, {}
    for name, (b, a), weight in layers:
        tensors[f"{name}.B"] = np.ascontiguousarray(b, dtype=np.float32)
        tensors[f"{name}.A"] = np.ascontiguousarray(a, dtype=np.float32)
        made_of = () if weight is None else (weight.hex(),)
        digests[name] = (pair_digest(tensors[f"{name}.B"], tensors[f"{name}.A"]).hex(), *made_of)
    text = {"version": 1} | ({} if recipe is None else {"recipe": asdict(recipe)})
    data = tensor_bytes(tensors, {KEY: json.dumps({**text, "layers": digests})})
    return write_file(path, data, force=force)


def is_basis_file(path: Path) -> bool:
    """Tells whether a path is a basis file."""
    is_tensors = path.suffix == ".safetensors" and path.is_file()
    return is_tensors and KEY in open_tensors(path).metadata


def open_basis_file(path: Path) -> StoredBases:
    """Opens a basis file; its bases are read, and checked, when they are asked for.

    Raises:
        FormatError: It is damaged.
    """
    file = open_tensors(path)
    text = file.metadata[KEY]
    limits.MANIFEST.check(len(text), path)
    try:
        found = _Description.model_validate_json(text, strict=True)
    except ValidationError as error:
        place, wrong = first_refused(error)
        raise FormatError(
            f"bad description at {place!r}: {wrong}", path=path, code="manifest"
        ) from None
    recipe = None if found.recipe is None else BasisRecipe(**found.recipe.model_dump())
    if {len(digests) for digests in found.layers.values()} - {1 if recipe is None else 2}:
        raise FormatError("as many digests as a recipe needs", path=path)
    pairs: dict[str, Callable[[], Pair]] = {
        name: partial(_read_pair, file, name, bytes.fromhex(digests[0]))
        for name, digests in found.layers.items()
    }
    weights = {n: bytes.fromhex(d[1]) for n, d in found.layers.items() if len(d) == 2}
    return StoredBases(path, recipe, pairs, weights)


def _read_pair(file: TensorFile, name: str, digest: bytes) -> Pair:
    """Reads a layer's B and A.

    Raises:
        FormatError: They are missing, or not those that were written.
    """
    if not {f"{name}.A", f"{name}.B"} <= file.entries.keys():
        raise FormatError("the file lacks a layer's bases", path=file.path, layer=name)
    b, a = (Float(file.matrix(f"{name}.{part}")).float32() for part in "BA")
    if b.shape[1] != a.shape[0] or pair_digest(b, a) != digest:
        raise FormatError(
            "the bases are not those that were written",
            path=file.path,
            layer=name,
            hint="the file is damaged: write it again",
        )
    return b, a
