"""Squared norms of ΔW, ΔŴ and their difference over all layers, layers of one shape together.

With the factors side by side, L = [B1 | B̂1] and R = [B2ᵀ | B̂2ᵀ], every inner product of B and B̂ is
one of blocks of LᵀL and RᵀR: ⟨B, B̂⟩ = Σ (B1ᵀB̂1) ∘ (B2·B̂2ᵀ). That is a tenth of the work of the
orthonormal bases of ``shared_bases``. But ‖B‖² − 2⟨B, B̂⟩ + ‖B̂‖² loses digits where they nearly
cancel: then, and where B is whole or ΔW is cropped, the norms are those of ``squared_norms``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kronq.model.delta import F64, ONE, Delta
from kronq.model.matrix import Matrix, stack_float32
from kronq.model.squared_norms import SquaredNorms, squared_norms

_CANCELS = 1e-6
"""Error, relative to the norms of the factors, below which float64 would leave too few digits."""
_TOGETHER = 2**18
"""Values of one side that are multiplied at once: what a processor's cache holds."""


def total_squared_norms(
    reference: Mapping[str, Delta], approximation: Mapping[str, Delta]
) -> SquaredNorms:
    """Computes the sums of all layers' squared norms in float64, to nine digits or more.

    Args:
        reference: The layers with ΔW.
        approximation: The same layers with ΔŴ.
    """
    groups: dict[object, list[tuple[Delta, Delta]]] = {}
    for name, delta in reference.items():
        pair = delta, approximation[name]
        groups.setdefault(_kind(*pair), []).append(pair)
    sums: list[SquaredNorms] = []
    for kind, pairs in groups.items():
        together = None if kind is None else _sum_of_group(pairs)
        sums += [together] if together else [squared_norms(*pair) for pair in pairs]
    return SquaredNorms(
        sum(each.reference for each in sums),
        sum(each.approximation for each in sums),
        sum(each.error for each in sums),
    )


def _kind(reference: Delta, approximation: Delta) -> object:
    """Returns what layers that go together share; None for a layer that goes alone."""
    pair = reference.b, approximation.b
    if any(b.right is None for b in pair) or reference.shape != reference.full_shape:
        return None
    return tuple(m.shape for b in pair for m in b.matrices)


def _sum_of_group(pairs: Sequence[tuple[Delta, Delta]]) -> SquaredNorms | None:
    """Returns the sums of layers of one shape; None where too few digits would be left."""
    b = pairs[0][0].b
    step = max(1, _TOGETHER // (max(b.shape) * 2 * b.rank))
    norms, bound = np.zeros(3), 0.0
    largest = max(m.shape[0] * m.shape[1] for delta in pairs[0] for m in delta.b.matrices)
    memory = np.empty(4 * min(step, len(pairs)) * largest)
    for start in range(0, len(pairs), step):
        some = pairs[start : start + step]
        blocks = _grams(some, 0, memory), _grams(some, 1, memory)
        weights = np.array([_inner_products_of_a(*pair) for pair in some]).T
        products = np.array([np.einsum("lij,lij->l", *each) for each in zip(*blocks, strict=True)])
        norms += (weights * products).sum(axis=1)
        traces = [
            np.einsum("lii->l", x) * np.einsum("lii->l", y)
            for x, y in zip(*(each[:2] for each in blocks), strict=True)
        ]
        bound += float((weights[:2] * traces).sum())
        exact, approximated, inner = norms.tolist()
        error = exact - 2 * inner + approximated
        if not error > _CANCELS * bound:
            return None
    return SquaredNorms(exact, approximated, error)


def _grams(pairs: Sequence[tuple[Delta, Delta]], side: int, memory: F64) -> tuple[F64, F64, F64]:
    """Returns the blocks of LᵀL for side 0, or RᵀR for side 1, of every layer.

    Args:
        pairs: The layers, of one shape.
        side: Of the product.
        memory: Numbers to write to, at least four times those of the matrices: new arrays of this
            size take as long as the products.

    Returns:
        Those of B with itself [layers, r, r], of B̂ with itself, and of both.
    """
    reference, approximation = memory.reshape(2, -1)
    # BLAS multiplies a matrix with a copy of itself sooner than with itself.
    exact, same = _write_twice([pair[0].b.matrices[side] for pair in pairs], side, reference)
    near, alike = _write_twice([pair[1].b.matrices[side] for pair in pairs], side, approximation)
    columns = exact.swapaxes(1, 2)
    return columns @ same, near.swapaxes(1, 2) @ alike, columns @ near


def _write_twice(matrices: Sequence[Matrix], side: int, memory: F64) -> tuple[F64, F64]:
    """Returns two copies of the matrices in float64, those of side 1 transposed."""
    values = stack_float32(matrices)
    copies = memory[: 2 * values.size].reshape(2, *values.shape)
    copies[...] = values
    one, two = copies.swapaxes(2, 3) if side else copies
    return one, two


def _inner_products_of_a(reference: Delta, approximation: Delta) -> tuple[float, float, float]:
    """Returns ⟨A, A⟩, ⟨Â, Â⟩ and ⟨A, Â⟩, scales included."""
    scales = reference.scale, approximation.scale
    if reference.a is ONE and approximation.a is ONE:
        return scales[0] ** 2, scales[1] ** 2, scales[0] * scales[1]
    a, b = (
        each.a.float64() * s for each, s in zip((reference, approximation), scales, strict=True)
    )
    return float(np.vdot(a, a)), float(np.vdot(b, b)), float(np.vdot(a, b))
