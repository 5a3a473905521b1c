"""LoKr tensors, as PEFT and LyCORIS both name them, read as A and B."""

from __future__ import annotations

from kronq.errors import FormatError, UnsupportedError
from kronq.model.delta import Product
from kronq.model.matrix import Float
from kronq.readers.known_layers import Kernel
from kronq.readers.layer_factors import LayerFactors, Parts

PARTS = (
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    *("lokr_t1", "lokr_t2"),
)


def read_lokr(parts: Parts) -> LayerFactors:
    """Reads A and B of one layer.

    Raises:
        FormatError: A factor is missing or given twice, or the ranks do not agree.
    """
    if "lokr_t1" in parts:
        raise UnsupportedError(
            "a Tucker core of w1, which no trainer is known to write",
            path=parts.tensors.path,
            layer=parts.layer,
            found="lokr_t1",
        )
    a, rank_a = _read_first(parts)
    b, rank_b, kernel = _read_second(parts)
    return LayerFactors(a, b, rank_b if rank_b is not None else rank_a, kernel)


def _read_first(parts: Parts) -> tuple[Product, int | None]:
    if _is_whole(parts, "lokr_w1"):
        return Product(Float(parts.matrix("lokr_w1"))), None
    left, right = parts.matrix("lokr_w1_a"), parts.matrix("lokr_w1_b")
    product = parts.product(left, right, "lokr_w1_a", "lokr_w1_b")
    return product, product.rank


def _read_second(parts: Parts) -> tuple[Product, int | None, Kernel | None]:
    """Returns B, its rank and the kernel; see ``LayerFactors``."""
    if _is_whole(parts, "lokr_w2"):
        whole, kernel = parts.flattened("lokr_w2")
        return Product(Float(whole)), None, kernel
    left = parts.matrix("lokr_w2_a")
    if "lokr_t2" in parts:  # w2_a is [r, b_out] here
        folded, kernel = parts.times_core("lokr_t2", "lokr_w2_b", left.shape[0])
        product = parts.product(left.T, folded, "lokr_w2_a", "lokr_w2_b")
        return product, parts.shape("lokr_w2_b")[0], kernel
    right, kernel = parts.flattened("lokr_w2_b")
    product = parts.product(left, right, "lokr_w2_a", "lokr_w2_b")
    return product, product.rank, kernel or None


def _is_whole(parts: Parts, name: str) -> bool:
    """Tells whether w1 or w2 is stored as one tensor.

    Raises:
        FormatError: It is neither one tensor nor two factors.
    """
    names = (name, f"{name}_a", f"{name}_b")
    whole, left, right = (each in parts for each in names)
    if (whole, left, right) not in {(True, False, False), (False, True, True)}:
        raise FormatError(
            "incomplete or contradictory factors",
            path=parts.tensors.path,
            layer=parts.layer,
            found=", ".join(each for each in names if each in parts) or f"no {name}",
            expected=f"{name}, or {name}_a and {name}_b",
            code="factors",
        )
    return whole
