"""Factors that each family has on a layer of given sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kronq.errors import ArgumentError
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float

FAMILIES = ("lora", "kron", "lokr", "lora-xs")
WIDE_HEAD = 16_384
"""d_out from which Kron-LoRA's own rule takes a_in = 1: output embeddings."""


@dataclass(frozen=True)
class AdapterShape:
    """Family of adapters and its sizes.

    Attributes:
        family: ``lora``; ``kron``, Kron-LoRA with sizes of A of one's own; ``lokr``, PEFT's and
            LyCORIS's LoKr, whose A comes from one factor; ``lora-xs``, R alone.
        rank: r.
        a_in: Columns of A, for ``kron``.
        a_out: Rows of A, for ``kron``; None where ``b_out`` decides them.
        b_out: Rows of B1, about, for ``kron``: A has d_out / b_out rows, rounded.
        factor: ``decompose_factor`` of ``lokr``; −1 for A and B of about the same size.
    """

    family: str
    rank: int
    a_in: int = 2
    a_out: int | None = None
    b_out: int = 200
    factor: int = 4

    def __str__(self) -> str:
        """Returns the family with its sizes, as tables show it."""
        sizes = {
            "kron": f", A {self.a_out}×{self.a_in}"
            if self.a_out
            else f", a_in {self.a_in}, b_out {self.b_out}",
            "lokr": f", factor {self.factor}",
        }
        return f"{self.family}{sizes.get(self.family, '')}"


def make_delta(shape: AdapterShape, d_out: int, d_in: int) -> Delta:
    """Returns a layer's adapter of zeros, which take no memory.

    Of LoRA-XS it is R alone, [r, r]: its bases are computed from the base model.

    Raises:
        ArgumentError: There is no such family, or the rank is larger than the layer allows.
    """
    if shape.family not in FAMILIES:
        raise ArgumentError(
            "no such family", found=repr(shape.family), expected=", ".join(FAMILIES)
        )
    return _MAKERS[shape.family](shape, d_out, d_in)


def _lora(shape: AdapterShape, d_out: int, d_in: int) -> Delta:
    return Delta(ONE, _low_rank(d_out, shape.rank, d_in), 1.0, (d_out, d_in))


def _kron(shape: AdapterShape, d_out: int, d_in: int) -> Delta:
    a_in = 1 if shape.a_out is None and d_out >= WIDE_HEAD else min(shape.a_in, d_in)
    a_out = max(1, round(d_out / shape.b_out)) if shape.a_out is None else min(shape.a_out, d_out)
    b_out, b_in = -(-d_out // a_out), -(-d_in // a_in)
    return Delta(_whole(a_out, a_in), _low_rank(b_out, shape.rank, b_in), 1.0, (d_out, d_in))


def _lokr(shape: AdapterShape, d_out: int, d_in: int) -> Delta:
    """Returns PEFT's LoKr with its defaults: A whole, B whole where the rank reaches half of it."""
    a_out, b_out = factorize(d_out, shape.factor)
    a_in, b_in = factorize(d_in, shape.factor)
    low = shape.rank < max(b_out, b_in) / 2
    b = _low_rank(b_out, shape.rank, b_in) if low else _whole(b_out, b_in)
    return Delta(_whole(a_out, a_in), b, 1.0, (d_out, d_in))


def _lora_xs(shape: AdapterShape, d_out: int, d_in: int) -> Delta:
    if shape.rank > min(d_out, d_in):
        raise ArgumentError(
            "a rank that LoRA-XS cannot have on every layer",
            found=str(shape.rank),
            expected=f"at most {min(d_out, d_in)}",
        )
    return Delta.uncropped(ONE, _whole(shape.rank, shape.rank), 1.0)


_MAKERS: dict[str, Callable[[AdapterShape, int, int], Delta]] = {
    "lora": _lora,
    "kron": _kron,
    "lokr": _lokr,
    "lora-xs": _lora_xs,
}


def factorize(size: int, factor: int) -> tuple[int, int]:
    """Splits a size into two that multiply to it, as LyCORIS and PEFT do.

    Args:
        size: d_in or d_out.
        factor: The first, where it divides ``size``; else the largest divisor up to it that is not
            above the other. −1 for the pair with the least sum.

    Returns:
        The smaller and the larger; with a ``factor`` that divides, that and the rest.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor == -1 else factor
    small = max(m for m in range(1, int(size**0.5) + 1) if size % m == 0 and m <= most)
    return small, size // small


def _whole(rows: int, cols: int) -> Product:
    return Product(_zeros(rows, cols))


def _low_rank(rows: int, rank: int, cols: int) -> Product:
    return Product(_zeros(rows, rank), _zeros(rank, cols))


def _zeros(rows: int, cols: int) -> Float:
    return Float(np.broadcast_to(np.float16(0), (rows, cols)))
