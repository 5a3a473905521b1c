"""Squared norms of ΔW, ΔŴ and their difference over all layers, layers of one shape together.

With the factors side by side, L = [B1 | B̂1] and R = [B2ᵀ | B̂2ᵀ], every inner product of B and B̂ is
one of blocks of LᵀL and RᵀR: ⟨B, B̂⟩ = Σ (B1ᵀB̂1) ∘ (B2·B̂2ᵀ). That is a tenth of the work of the
orthonormal bases of ``shared_bases``. But ‖B‖² − 2⟨B, B̂⟩ + ‖B̂‖² loses digits where they nearly
cancel: then, and where B is whole or ΔW is cropped, the norms are those of ``squared_norms``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from kronq.model.delta import F64, Delta
from kronq.model.matrix import F32
from kronq.model.matrix_stacks import MatrixStack, float32_once
from kronq.model.squared_norms import SquaredNorms, squared_norms
from kronq.model.stacks import LayerStack, stack_layers, stacks_of

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
    sums: list[SquaredNorms] = []
    for pair in _paired(reference, approximation):
        together = _sum_of_stacks(*pair) if _go_together(*pair) else None
        apart = [] if together else range(len(pair[0].names))
        sums += [together] if together else []
        sums += [squared_norms(*(stack.delta(layer) for stack in pair)) for layer in apart]
    return SquaredNorms(
        sum(each.reference for each in sums),
        sum(each.approximation for each in sums),
        sum(each.error for each in sums),
    )


def _paired(
    reference: Mapping[str, Delta], approximation: Mapping[str, Delta]
) -> Iterator[tuple[LayerStack, LayerStack]]:
    """Yields stacks of the same layers."""
    approximated = {tuple(each.names): each for each in stacks_of(approximation)}
    for stack in stacks_of(reference):
        names = tuple(stack.names)
        if names in approximated:
            yield stack, approximated[names]
            continue
        for other in stack_layers({name: approximation[name] for name in names}):
            if tuple(other.names) == names:
                yield stack, other
                continue
            (same,) = stack_layers({name: reference[name] for name in other.names})
            yield same, other


def _go_together(reference: LayerStack, approximation: LayerStack) -> bool:
    """Tells whether r×r matrices give the norms."""
    return reference.is_uncropped and len(reference.b) == len(approximation.b) == 2


def _sum_of_stacks(reference: LayerStack, approximation: LayerStack) -> SquaredNorms | None:
    """Returns the sums of layers of one shape; None where too few digits would be left."""
    first, pair = reference.first, (reference, approximation)
    values = max(2 * max(first.b.shape) * first.b.rank, first.a.shape[0] * first.a.shape[1])
    layers, step = len(reference.names), max(1, _TOGETHER // values)
    norms, bound = np.zeros(3), 0.0
    largest = max(m.shape[0] * m.shape[1] for each in pair for m in each.first.b.matrices)
    memory = np.empty(4 * min(step, layers) * largest)
    for start in range(0, layers, step):
        some = slice(start, min(start + step, layers))
        blocks = [_grams(reference.b[i], approximation.b[i], some, i, memory) for i in (0, 1)]
        a, near_a = (stack.scaled_a64(some) for stack in pair)
        weights = np.array(
            [np.einsum("lij,lij->l", *each) for each in ((a, a), (near_a, near_a), (a, near_a))]
        )
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


def _grams(
    reference: MatrixStack, approximation: MatrixStack, layers: slice, side: int, memory: F64
) -> tuple[F64, F64, F64]:
    """Returns the blocks of LᵀL for side 0, or RᵀR for side 1, of some layers.

    Args:
        reference: The factors of that side.
        approximation: Those of B̂.
        layers: The layers.
        side: Of the product.
        memory: Numbers to write to, at least four times those of the matrices: new arrays of this
            size take as long as the products.

    Returns:
        Those of B with itself [layers, r, r], of B̂ with itself, and of both.
    """
    halves = memory.reshape(2, -1)
    # BLAS multiplies a matrix with a copy of itself sooner than with itself.
    exact, same = _write_twice(float32_once(reference, layers), side, halves[0])
    near, alike = _write_twice(float32_once(approximation, layers), side, halves[1])
    columns = exact.swapaxes(1, 2)
    return columns @ same, near.swapaxes(1, 2) @ alike, columns @ near


def _write_twice(values: F32, side: int, memory: F64) -> tuple[F64, F64]:
    """Returns two copies of the matrices in float64, those of side 1 transposed."""
    copies = memory[: 2 * values.size].reshape(2, *values.shape)
    copies[...] = values
    one, two = copies.swapaxes(2, 3) if side else copies
    return one, two
