"""Frozen bases of LoRA-XS: where they come from when an adapter stores R alone.

LoRA-XS (arXiv 2405.17604) trains R [r, r] in ΔW = scale · B · R · A, with A and B made of the
base's singular vectors. They are the same for every adapter of one base and rank, so a file needs
R and what tells whether bases found elsewhere are the right ones: their recipe, and digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kronq.model.layer_names import natural_key

LORA_XS = "LoRA-XS"
"""``Origin.system`` of an adapter that has R beside its frozen bases."""
SHORT_DIGEST = 2
"""Bytes of a layer's digest that a file stores: they name the layer that differs. Whether any does
is decided by the digest over all layers."""


@dataclass(frozen=True)
class BasisRecipe:
    """How bases are made of a weight: scikit-learn's ``TruncatedSVD`` of its transpose.

    Attributes:
        n_iter: Its power iterations.
        seed: Its ``random_state``.
    """

    n_iter: int = 10
    seed: int = 42


@dataclass(frozen=True)
class FrozenBasis:
    """Bases of one layer.

    Attributes:
        shape: (d_out, d_in) of ΔW.
        digest: SHA-256 of what they are made of: the base's weight, or with no recipe the bases
            themselves. Read from a file, its first bytes alone.
    """

    shape: tuple[int, int]
    digest: bytes


@dataclass(frozen=True)
class FrozenBases:
    """Bases that an adapter of R alone needs and does not hold.

    Attributes:
        layers: Layers whose matrix is a core; all others are whole.
        digest: ``joint_digest`` of their digests; None for a part of an adapter.
        recipe: How they are made of the base's weights; None where they are not, and are stored.
    """

    layers: Mapping[str, FrozenBasis]
    digest: str | None
    recipe: BasisRecipe | None

    @property
    def described(self) -> str:
        """Where the bases come from, in words."""
        return describe_recipe(self.recipe)

    def part(self, names: Iterable[str]) -> FrozenBases | None:
        """Returns those of some layers; None if none of them is a core."""
        kept = {name: self.layers[name] for name in names if name in self.layers}
        if len(kept) == len(self.layers):
            return self
        return replace(self, layers=kept, digest=None) if kept else None


def describe_recipe(recipe: BasisRecipe | None) -> str:
    """Says how bases are made, or where else they come from."""
    if recipe is None:
        return "bases taken from a LoRA-XS adapter"
    return f"bases made of a base's weights (n_iter {recipe.n_iter}, seed {recipe.seed})"


def joint_digest(digests: Mapping[str, bytes]) -> str:
    """Returns one digest of all layers' in their natural order, 32 hexadecimal digits."""
    names = sorted(digests, key=natural_key)
    return hashlib.sha256(b"".join(digests[name] for name in names)).hexdigest()[:32]
