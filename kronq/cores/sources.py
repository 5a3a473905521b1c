"""Where frozen bases come from: a base's weights, or bases that are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kronq.cores.frame import Frame, make_frame
from kronq.cores.randomized_svd import singular_bases
from kronq.errors import FormatError, MismatchError
from kronq.io.base_weights import BaseWeights
from kronq.model.frozen_bases import BasisRecipe, FrozenBasis
from kronq.model.matrix import F32

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""LoRA-XS's B [d_out, r] and A [r, d_in]."""


class BasisSource(Protocol):
    """Frozen bases of layers."""

    @property
    def path(self) -> Path:
        """File or folder, for errors."""

    @property
    def recipe(self) -> BasisRecipe | None:
        """How they are made of the base's weights; None where nothing tells."""

    def basis(self, layer: str, rank: int, shape: tuple[int, int]) -> tuple[FrozenBasis, Frame]:
        """Returns a layer's bases.

        Raises:
            MismatchError: There are none of this rank and shape.
        """


@dataclass(frozen=True)
class ComputedBases:
    """Bases made of a base's weights.

    Attributes:
        weights: The base.
        recipe: How they are made.
    """

    weights: BaseWeights
    recipe: BasisRecipe

    @property
    def path(self) -> Path:
        return self.weights.folder

    def basis(self, layer: str, rank: int, shape: tuple[int, int]) -> tuple[FrozenBasis, Frame]:
        weight = self.weights.weight(layer)
        if weight.shape != shape:
            raise MismatchError(
                "the base's weight has another shape",
                path=self.path,
                layer=layer,
                found=list(weight.shape),
                expected=list(shape),
                code="shape",
            )
        pair = singular_bases(weight, rank, self.recipe, layer=layer)
        return FrozenBasis(shape, weight_digest(weight)), make_frame(*pair)


@dataclass(frozen=True, eq=False)
class StoredBases:
    """Bases in a file.

    Attributes:
        path: The file or folder.
        recipe: How they were made of a base's weights; None if they were taken from an adapter.
        pairs: Layer → its B and A, read when they are asked for.
        weights: With a recipe, layer → digest of the weight that they were made of.
    """

    path: Path
    recipe: BasisRecipe | None
    pairs: Mapping[str, Callable[[], Pair]]
    weights: Mapping[str, bytes]

    def basis(self, layer: str, rank: int, shape: tuple[int, int]) -> tuple[FrozenBasis, Frame]:
        if layer not in self.pairs:
            raise MismatchError("no bases of this layer", path=self.path, layer=layer)
        b, a = self.pairs[layer]()
        found = [*b.shape, *a.shape]
        if found != [shape[0], rank, rank, shape[1]]:
            raise MismatchError(
                "the bases have other shapes",
                path=self.path,
                layer=layer,
                found=f"B {found[:2]}, A {found[2:]}",
                expected=f"B {[shape[0], rank]}, A {[rank, shape[1]]}",
            )
        if not (np.isfinite(b).all() and np.isfinite(a).all()):
            raise FormatError(
                "the bases are not finite", path=self.path, layer=layer, code="not-finite"
            )
        digest = self.weights.get(layer) or pair_digest(b, a)
        frame = make_frame(b.astype(np.float64), a.astype(np.float64))
        return FrozenBasis(shape, digest), frame


def weight_digest(weight: F32) -> bytes:
    """Returns the SHA-256 of a matrix's shape and float32 values: the dtype does not matter."""
    digest = hashlib.sha256(repr(weight.shape).encode())
    digest.update(np.ascontiguousarray(weight, dtype="<f4").data)
    return digest.digest()


def pair_digest(b: NDArray[np.float32], a: NDArray[np.float32]) -> bytes:
    """Returns the SHA-256 of stored bases."""
    return weight_digest(np.concatenate([b, a.T]))
