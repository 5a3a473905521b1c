"""Normal form of one adapted layer: ΔW = scale · A ⊗ B, with A and B kept as factors.

Kron-LoRA (arXiv 2508.01961), which PEFT and LyCORIS call LoKr, has A = lokr_w1 (or w1_a·w1_b) and
B = lokr_w2_a·lokr_w2_b (or a full lokr_w2). LoRA is the same with A = [[1]]. The Kronecker product
has ``numpy.kron``'s and ``torch.kron``'s index order: x is reshaped to [a_in, b_in].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from kronq.model.matrix import F32, Float, Matrix

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix stored as left · right, or whole as left alone.

    Attributes:
        left: [rows, rank], or [rows, cols] when ``right`` is None.
        right: [rank, cols] or None.
    """

    left: Matrix
    right: Matrix | None = None

    def __post_init__(self) -> None:
        if self.right is not None and self.left.shape[1] != self.right.shape[0]:
            raise ValueError(f"factors {self.left.shape} and {self.right.shape} do not multiply")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        # A plain LoRA is known by this very object, in other processes too.
        return "ONE" if self is ONE else super().__reduce_ex__(protocol)

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], (self.right or self.left).shape[1]

    @property
    def rank(self) -> int:
        """Inner dimension; of a whole matrix the largest possible rank."""
        return self.left.shape[1] if self.right is not None else min(self.left.shape)

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return (self.left,) if self.right is None else (self.left, self.right)

    @property
    def parameters(self) -> int:
        return sum(m.shape[0] * m.shape[1] for m in self.matrices)

    def float32(self) -> tuple[F32, F32 | None]:
        return self.left.float32(), None if self.right is None else self.right.float32()

    def float64(self) -> F64:
        """Multiplies the product out [rows, cols] in float64."""
        left = self.left.float32().astype(np.float64)
        return left if self.right is None else left @ self.right.float32().astype(np.float64)


ONE = Product(Float(np.ones((1, 1), dtype=np.float32)))
"""A of a plain LoRA: [[1]], which is implied, so neither stored nor counted."""


@dataclass(frozen=True, eq=False)
class Delta:
    """ΔW = scale · (A ⊗ B)[:d_out, :d_in] of one layer; y += x · ΔWᵀ.

    Of a convolution, ΔW is the change of its weight [d_out, d_in, *kernel], reshaped to a matrix
    [d_out, d_in·K] with K positions in the kernel; the Kronecker product needs no other order.

    Attributes:
        a: A [a_out, a_in]; ``ONE`` for LoRA.
        b: B [b_out, b_in]; of a convolution [b_out, b_in·K].
        scale: By the format's scale rule, such as α/r.
        shape: (d_out, d_in), at most (a_out·b_out, a_in·b_in): the excess is cropped. Of a
            convolution (d_out, d_in·K).
        kernel: Sizes of a convolution's kernel; empty for a linear layer.
        magnitude: DoRA's trained magnitude m, as it came: [d_out, 1] or [1, d_in]; None without.
            The adapted weight is then m · (W + ΔW) / ‖W + ΔW‖, with the norm of each row, or of
            each input channel (arXiv 2402.09353).
    """

    a: Product
    b: Product
    scale: float
    shape: tuple[int, int]
    kernel: tuple[int, ...] = ()
    magnitude: Float | None = None

    def __post_init__(self) -> None:
        (rows, cols), full = self.shape, self.full_shape
        if not (0 < rows <= full[0] and 0 < cols <= full[1]):
            raise ValueError(f"shape {self.shape} does not fit the Kronecker product's {full}")
        if cols % math.prod(self.kernel):
            raise ValueError(f"{cols} columns are no whole channels of a kernel {self.kernel}")
        sides = ((rows, 1), (1, self.weight_shape[1]))
        if self.magnitude is not None and self.magnitude.shape not in sides:
            raise ValueError(f"a magnitude {self.magnitude.shape} is none of {sides}")

    @classmethod
    def uncropped(cls, a: Product, b: Product, scale: float, kernel: tuple[int, ...] = ()) -> Delta:
        """Returns scale · A ⊗ B in its full shape."""
        return cls(a, b, scale, _kron_shape(a, b), kernel)

    def __repr__(self) -> str:
        rows, cols = self.shape
        kernel = f" (kernel {'×'.join(map(str, self.kernel))})" if self.kernel else ""
        return (
            f"<ΔW {rows}×{cols}{kernel}, rank {self.rank}, scale {self.scale:g}, "
            f"{self.parameters:,} parameters>"
        )

    @property
    def full_shape(self) -> tuple[int, int]:
        """(a_out·b_out, a_in·b_in), before cropping."""
        return _kron_shape(self.a, self.b)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the base's weight: (d_out, d_in, *kernel)."""
        return self.shape[0], self.shape[1] // math.prod(self.kernel), *self.kernel

    @property
    def rank(self) -> int:
        """r, the inner dimension of B = B1·B2; of a whole B the largest possible rank."""
        return self.b.rank

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Stored matrices: those of A, unless it is ``ONE``, then those of B."""
        return (*(() if self.a is ONE else self.a.matrices), *self.b.matrices)

    @property
    def parameters(self) -> int:
        """Number of stored weights, those of the magnitude included."""
        return sum(m.shape[0] * m.shape[1] for m in self._stored)

    @property
    def nbytes(self) -> int:
        return sum(m.nbytes for m in self._stored)

    @property
    def _stored(self) -> tuple[Matrix, ...]:
        return (*self.matrices, *(() if self.magnitude is None else (self.magnitude,)))

    def dense(self) -> F32:
        """Multiplies ΔW out [d_out, d_in], float32; for inspection and tests."""
        a, b = self.a.float64() * self.scale, self.b.float64()
        return np.kron(a, b)[: self.shape[0], : self.shape[1]].astype(np.float32)

    def apply(self, x: F32) -> F32:
        """Computes x · ΔWᵀ [..., d_out] in float32 for x [..., d_in], without building ΔW.

        Of a convolution x is its input's patches [..., d_in·K].
        """
        (a_out, a_in), (b_out, b_in) = self.a.shape, self.b.shape
        lead = x.shape[:-1]
        rows = x.reshape(-1, self.shape[1])
        rows = np.pad(rows, ((0, 0), (0, a_in * b_in - self.shape[1])))
        left, right = self.b.float32()
        h = rows.reshape(-1, a_in, b_in)
        if right is not None:
            h = h @ right.T
        a = (self.a.float64() * self.scale).astype(np.float32)
        y: F32 = np.einsum("oi,tir->tor", a, h) @ left.T
        return y.reshape(-1, a_out * b_out)[:, : self.shape[0]].reshape(*lead, self.shape[0])

    def blocks(self) -> Iterator[tuple[slice, slice, slice, slice]]:
        """Splits the cropped product into at most four Kronecker products of slices.

        Yields:
            (rows of A, columns of A, rows of B, columns of B); the parts are disjoint and cover ΔW.
        """
        for a_rows, b_rows in _runs(self.shape[0], self.b.shape[0]):
            for a_cols, b_cols in _runs(self.shape[1], self.b.shape[1]):
                yield a_rows, a_cols, b_rows, b_cols


def _kron_shape(a: Product, b: Product) -> tuple[int, int]:
    return b.shape if a is ONE else (a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


def _runs(size: int, block: int) -> Iterator[tuple[slice, slice]]:
    whole, rest = divmod(size, block)
    if whole:
        yield slice(0, whole), slice(0, block)
    if rest:
        yield slice(whole, whole + 1), slice(0, rest)
