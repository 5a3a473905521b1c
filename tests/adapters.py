"""Small random adapters of every kind, and what they are when multiplied out by numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float

Rng = np.random.Generator


def dense(delta: Delta) -> NDArray[np.float64]:
    """scale · A ⊗ B, cropped, by ``numpy.kron`` in float64."""

    def product(kept: Product) -> NDArray[np.float64]:
        left, *right = (m.float32().astype(np.float64) for m in kept.matrices)
        return left @ right[0] if right else left

    whole = delta.scale * np.kron(product(delta.a), product(delta.b))
    return whole[: delta.shape[0], : delta.shape[1]]


def relative(reference: Delta, approximation: Delta) -> float:
    """‖ΔW − ΔŴ‖ / ‖ΔW‖, multiplied out."""
    whole = dense(reference)
    return float(np.linalg.norm(whole - dense(approximation)) / np.linalg.norm(whole))


def matrix(rng: Rng, rows: int, cols: int, dtype: str = "float32") -> Float:
    return Float(rng.normal(size=(rows, cols)).astype(dtype))


def lora(rng: Rng, rows: int = 24, cols: int = 20, rank: int = 4) -> Delta:
    b = Product(matrix(rng, rows, rank), matrix(rng, rank, cols))
    return Delta(ONE, b, 2.0, (rows, cols))


def kron(
    rng: Rng, a: tuple[int, int] = (4, 3), b: tuple[int, int] = (24, 20), rank: int = 4
) -> Delta:
    pair = Product(matrix(rng, b[0], rank), matrix(rng, rank, b[1]))
    return Delta(Product(matrix(rng, *a)), pair, 0.5, (a[0] * b[0], a[1] * b[1]))


def full_b(rng: Rng, a: tuple[int, int] = (4, 3), b: tuple[int, int] = (10, 9)) -> Delta:
    whole = Product(matrix(rng, *b))
    return Delta(Product(matrix(rng, *a)), whole, 1.5, (a[0] * b[0], a[1] * b[1]))


def decomposed_a(rng: Rng) -> Delta:
    a = Product(matrix(rng, 6, 2), matrix(rng, 2, 5))
    return Delta(a, Product(matrix(rng, 16, 4), matrix(rng, 4, 12)), 0.25, (96, 60))


def cropped(rng: Rng) -> Delta:
    """The paper's shapes overshoot: 4·24 = 96 rows for 91, 3·20 = 60 columns for 43."""
    whole = kron(rng)
    return Delta(whole.a, whole.b, whole.scale, (91, 43))


KINDS: dict[str, Callable[[Rng], Delta]] = {
    "kron": kron,
    "lora": lora,
    "full_b": full_b,
    "decomposed_a": decomposed_a,
    "cropped": cropped,
}


def adapter(seed: int = 0, layers: int = 3, kinds: tuple[str, ...] = tuple(KINDS)) -> Adapter:
    """``layers`` layers of every kind."""
    rng = np.random.default_rng(seed)
    found = {f"model.layers.{i}.{kind}": KINDS[kind](rng) for i in range(layers) for kind in kinds}
    return Adapter(found, Origin("memory", base_model="maker/base"))


def scaled(delta: Delta, left: float, right: float) -> Delta:
    """The same layer with B1 multiplied by ``left`` and B2 by ``right``."""
    factors = zip(delta.b.matrices, (left, right), strict=False)
    b = Product(*(Float(m.float32() * np.float32(by)) for m, by in factors))
    return Delta(delta.a, b, delta.scale, delta.shape)


def difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference over the largest value."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
