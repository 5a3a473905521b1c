"""Weight of an error E in B, tr(left·E·right·Eᵀ): left and right for a batch of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.model.delta import F64
from kronq.model.matrix import F32
from kronq.quantization.mixed.gptq import OrderedLDL


@dataclass(frozen=True, eq=False)
class ErrorMetric:
    """Second moments M of one side of B, for a batch of layers, or multiples of the identity.

    Attributes:
        moments: [layers, n, n]; None for the identity.
        code_weight: [layers]: weight of the squared error of one code, after error feedback.
        factors: The moments, factored; None without them.
    """

    moments: F64 | None
    code_weight: F64
    factors: OrderedLDL | None = None

    @classmethod
    def from_moments(cls, moments: F64) -> ErrorMetric:
        """Factors second moments [layers, n, n]."""
        factors = OrderedLDL(moments)
        return cls(moments, factors.diagonal.astype(np.float64).mean(axis=1), factors)

    @property
    def identity_weight(self) -> F64:
        """Multiple of the identity that is not in ``moments``, [layers]."""
        return self.code_weight if self.moments is None else np.ones_like(self.code_weight)

    def apply(self, x: F32) -> F64:
        """Returns x·M for x [layers, channels, n]."""
        if self.moments is None:
            return x.astype(np.float64)
        product: F64 = np.matmul(x, self.moments)
        return product

    def diagonal(self, size: int) -> F64:
        """Returns the diagonal of M, [layers, size]."""
        if self.moments is None:
            return np.ones((len(self.code_weight), size))
        diagonal: F64 = np.einsum("lii->li", self.moments)
        return diagonal

    def inner(self, x: F32, y: F32) -> F64:
        """Returns the inner products x·M·yᵀ [layers, channels, channels]."""
        weighted: NDArray[Any] = x if self.moments is None else self.apply(x)
        products: F64 = np.matmul(weighted, y.transpose(0, 2, 1)).astype(np.float64)
        return products

    def squared_norms(self, x: F32) -> F64:
        """Returns the squared norm of every channel, [layers, channels]."""
        weighted: NDArray[Any] = x if self.moments is None else self.apply(x)
        norms: F64 = np.einsum("lij,lij->li", weighted, x).astype(np.float64)
        return norms
