"""LoHa tensors, as PEFT and LyCORIS both name them, read as the LoRA that they are.

ΔW = s · (W1a·W1b) ⊙ (W2a·W2b), each of rank r, is a LoRA of rank r²: its columns and rows are the
products of each pair of theirs (FedPara, arXiv 2108.06098, proposition 1).
"""

from __future__ import annotations

import numpy as np

from kronq import limits
from kronq.model.delta import F64, ONE, Product
from kronq.model.matrix import Float
from kronq.readers.known_layers import Kernel
from kronq.readers.layer_factors import LayerFactors, Parts

PARTS = (*("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), *("hada_t1", "hada_t2"))


def read_loha(parts: Parts) -> LayerFactors:
    """Reads A and B of one layer: B1·B2 of rank r², or B whole where that is smaller.

    Raises:
        FormatError: A factor is missing, or the shapes do not agree.
    """
    cores = [core for core in ("hada_t1", "hada_t2") if core in parts]
    if len(cores) == 1 or not all(name in parts for name in PARTS[:4]):
        raise parts.mismatch("hada_w1_a, hada_w1_b, hada_w2_a and hada_w2_b", *PARTS)
    (left1, right1, kernel), (left2, right2, other) = (_half(parts, i) for i in (1, 2))
    shapes = [(left.shape[0], right.shape[1]) for left, right in ((left1, right1), (left2, right2))]
    if shapes[0] != shapes[1] or kernel != other:
        raise parts.mismatch("two products of one shape", *PARTS)
    rank = left1.shape[1] * left2.shape[1]
    rows, cols = shapes[0]
    if rank * (rows + cols) > rows * cols:
        whole = ((left1 @ right1) * (left2 @ right2)).astype(np.float32)
        return LayerFactors(_ones(), Product(Float(whole)), left1.shape[1], kernel)
    limits.RANK.check(rank, parts.tensors.path, parts.layer)
    left = (left1[:, :, None] * left2[:, None, :]).reshape(rows, rank)
    right = (right1[:, None, :] * right2[None, :, :]).reshape(rank, cols)
    b = Product(Float(left.astype(np.float32)), Float(right.astype(np.float32)))
    return LayerFactors(ONE, b, left1.shape[1], kernel)


def _half(parts: Parts, number: int) -> tuple[F64, F64, Kernel | None]:
    """Returns the two factors of one product, and the kernel if the tensors tell it."""
    names = f"hada_w{number}_a", f"hada_w{number}_b"
    left = parts.matrix(names[0])
    if f"hada_t{number}" in parts:  # w_a is [r, d_out] here
        right, kernel = parts.times_core(f"hada_t{number}", names[1], left.shape[0])
        left = left.T
        told: Kernel | None = kernel
    else:
        right, kernel = parts.flattened(names[1])
        told = kernel or None
    product = parts.product(left, right, *names)
    assert product.right is not None  # noqa: S101
    factors = (matrix.float32().astype(np.float64) for matrix in product.matrices)
    return next(factors), next(factors), told


def _ones() -> Product:
    """A of a layer whose B is whole: stored, so that B is not taken for a LoRA's factor."""
    return Product(Float(np.ones((1, 1), dtype=np.float32)))
