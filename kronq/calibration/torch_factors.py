"""Factors of a layer as torch tensors, which may be trained and replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class TorchFactors:
    """ΔW = scale · (A ⊗ B)[:d_out, :d_in] of one layer as tensors; ``Delta`` in numpy.

    Attributes:
        a: () for LoRA, (A [a_out, a_in],) or a product's two factors.
        b: (B [b_out, b_in],) or (B1 [b_out, r], B2 [r, b_in]).
        scale: The factor before the product.
        shape: (d_out, d_in).
    """

    a: tuple[torch.Tensor, ...]
    b: tuple[torch.Tensor, ...]
    scale: float
    shape: tuple[int, int]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All factors, in the order of ``Delta.matrices``."""
        return (*self.a, *self.b)

    def replaced(self, tensors: Sequence[torch.Tensor]) -> TorchFactors:
        """Returns the layer with other ``tensors``, of the same shapes and in the same order."""
        return replace(self, a=tuple(tensors[: len(self.a)]), b=tuple(tensors[len(self.a) :]))

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Computes x · ΔWᵀ without building ΔW: [..., d_in] in, [..., d_out] out."""
        a_in, b_in = self.a[-1].shape[1] if self.a else 1, self.b[-1].shape[1]
        rows = x.reshape(-1, self.shape[1])
        if self.shape[1] < a_in * b_in:
            rows = _pad_columns(rows, a_in * b_in)
        h = rows.reshape(-1, a_in, b_in)
        for factor in self.b[:0:-1]:
            h = h @ factor.T
        h = h * self.scale
        if self.a:
            h = h.transpose(1, 2)
            for factor in self.a[::-1]:
                h = h @ factor.T
            h = h.transpose(1, 2)
        y = (h @ self.b[0].T).flatten(1)
        return y[:, : self.shape[0]].reshape(*x.shape[:-1], self.shape[0])

    def to_delta(self) -> Delta:
        """Returns the layer in numpy, float32."""
        a, b = (
            Product(*(Float(t.detach().cpu().float().numpy()) for t in part)) if part else ONE
            for part in (self.a, self.b)
        )
        return Delta(a, b, self.scale, self.shape)


def _pad_columns(rows: torch.Tensor, width: int) -> torch.Tensor:
    import torch

    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]))


def to_torch_factors(delta: Delta, device: str = "cpu", *, trainable: bool = False) -> TorchFactors:
    """Copies a layer's factors to float32 tensors."""
    import torch

    def tensors(product: Product) -> tuple[torch.Tensor, ...]:
        copies = (np.array(m.float32()) for m in product.matrices)
        return tuple(torch.from_numpy(m).to(device).requires_grad_(trainable) for m in copies)

    a = () if delta.a is ONE else tensors(delta.a)
    return TorchFactors(a, tensors(delta.b), delta.scale, delta.shape)
