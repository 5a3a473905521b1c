"""Tensors of LoKr's two factors, w1 and w2, as PEFT and LyCORIS both store them."""

from __future__ import annotations

import math

from kronq.model.delta import Delta, Product
from kronq.model.matrix import Matrix
from kronq.writers.contents import Values


def second_sides(delta: Delta) -> tuple[int, int]:
    """Returns the rows and input channels of w2, without a convolution's kernel."""
    rows, columns = delta.b.shape
    return rows, columns // math.prod(delta.kernel)


def keeps_product(factor: Product, sides: tuple[int, int]) -> bool:
    """Tells whether PEFT and LyCORIS keep a product of this rank, instead of multiplying it out."""
    return factor.right is not None and 2 * factor.rank < max(sides)


def factor_tensors(name: str, factor: Product, product: bool) -> dict[str, Values]:
    """Returns a factor's tensors: its product's two, or itself."""
    if not product or factor.right is None:
        return {name: Values(factor.shape, factor.float64)}
    return {f"{name}_a": _values(factor.left), f"{name}_b": _values(factor.right)}


def _values(matrix: Matrix) -> Values:
    return Values(matrix.shape, Product(matrix).float64)


def second_tensors(delta: Delta, product: bool) -> dict[str, Values]:
    """Returns w2's tensors; a whole one of a convolution has the kernel's dimensions."""
    tensors = factor_tensors("lokr_w2", delta.b, product)
    if not product:
        whole = tensors["lokr_w2"]
        tensors["lokr_w2"] = whole.reshape(*second_sides(delta), *delta.kernel)
    return tensors
