"""Frozen bases of cores in a packed file: their digests, and how they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError
from kronq.io.safetensors_file import TensorFile
from kronq.model.adapter import Adapter
from kronq.model.frozen_bases import SHORT_DIGEST, BasisRecipe, FrozenBases, FrozenBasis
from kronq.model.stacks import LayerStack
from kronq.packed.manifest import BasesSpec, Manifest
from kronq.packed.tensor_check import BASES


def core_shape(adapter: Adapter, layer: str) -> tuple[int, int] | None:
    """Returns the shape of ΔW of a layer that is R alone; None for any other."""
    if adapter.bases is None or layer not in adapter.bases.layers:
        return None
    return adapter.bases.layers[layer].shape


def describe_bases(adapter: Adapter) -> BasesSpec | None:
    """Returns the manifest's description of the bases.

    Raises:
        ArgumentError: The adapter is a part of one, whose digest is of all its layers.
    """
    bases = adapter.bases
    if bases is None:
        return None
    if bases.digest is None:
        raise ArgumentError(
            "a part of an adapter without its bases cannot be packed",
            path=adapter.origin.path,
            hint="take the part of the adapter as it was trained",
        )
    if bases.recipe is None:
        return BasesSpec(digest=bases.digest)
    return BasesSpec(digest=bases.digest, n_iter=bases.recipe.n_iter, seed=bases.recipe.seed)


def pack_bases(adapter: Adapter, grouped: Sequence[Sequence[str]]) -> dict[str, NDArray[Any]]:
    """Packs the first bytes of the digest of every core's bases, in the file's order."""
    if adapter.bases is None:
        return {}
    layers = adapter.bases.layers
    short = [layers[n].digest[:SHORT_DIGEST] for names in grouped for n in names if n in layers]
    return {BASES: np.frombuffer(b"".join(short), dtype=np.uint8).reshape(-1, SHORT_DIGEST)}


def read_bases(
    file: TensorFile, manifest: Manifest, stacks: Sequence[LayerStack]
) -> FrozenBases | None:
    """Reads what the cores of a file need; None if it has none."""
    spec = manifest.bases
    if spec is None:
        return None
    digests = iter(file.array(BASES))
    layers = {
        name: FrozenBasis(group.core, next(digests).tobytes())
        for group, stack in zip(manifest.groups, stacks, strict=True)
        if group.core is not None
        for name in stack.names
    }
    recipe = None
    if spec.n_iter is not None and spec.seed is not None:
        recipe = BasisRecipe(spec.n_iter, spec.seed)
    return FrozenBases(layers, spec.digest, recipe)
