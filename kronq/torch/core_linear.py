"""``CoreLinear``: a linear layer with LoRA-XS beside it, of which R alone is trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kronq.cores.frame import Frame
from kronq.errors import ArgumentError
from kronq.model.delta import ONE, Delta, Product
from kronq.model.frozen_bases import FrozenBasis
from kronq.model.matrix import Float


class CoreLinear(nn.Module):  # type: ignore[misc]
    """Computes y = W·x + scale · F·R·H·x, where F and H are frozen (LoRA-XS, arXiv 2405.17604).

    F's columns and H's rows are orthonormal and span the largest singular vectors of W. R begins
    at zero, so ΔW does.

    Attributes:
        base: The layer that is adapted; its parameters need no gradient.
        r: R [r, r].
        up: F [d_out, r].
        down: H [r, d_in].
        scale: Factor of ΔW.
        basis: What the bases are made of.
    """

    up: Tensor
    down: Tensor

    def __init__(
        self,
        base: nn.Linear,
        bases: tuple[FrozenBasis, Frame],
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
    ):
        """Adapts a layer.

        Args:
            base: The layer. It is kept, and frozen.
            bases: Its frozen bases, as ``BasisSource.basis`` returns them.
            scale: Factor of ΔW.
            dropout: Probability that an entry of x is left out of the adapter's input in training.
        """
        super().__init__()
        self.basis, frame = bases
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        weight = base.weight
        for name, matrix in (("up", frame.up), ("down", frame.down)):
            values = torch.from_numpy(np.ascontiguousarray(matrix)).to(weight)
            self.register_buffer(name, values, persistent=False)
        rank = self.up.shape[1]
        self.r = nn.Parameter(torch.zeros(rank, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Returns y [..., d_out] of x [..., d_in]."""
        y: Tensor = self.base(x)
        h = nn.functional.linear(self.dropout(x), self.down)
        h = nn.functional.linear(h, self.r)
        return torch.add(y, nn.functional.linear(h, self.up), alpha=self.scale)

    def delta(self) -> Delta:
        """Returns R as it is now, copied to float32."""
        values = self.r.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
        return Delta.uncropped(ONE, Product(Float(values)), self.scale)

    def load(self, delta: Delta) -> None:
        """Takes R and its scale, to train on.

        Raises:
            ArgumentError: It has another shape.
        """
        if delta.a is not ONE or delta.b.right is not None or delta.shape != tuple(self.r.shape):
            raise ArgumentError("an adapter of other shapes", found=repr(delta))
        with torch.no_grad():
            self.r.copy_(torch.from_numpy(delta.b.left.float32().copy()))
        self.scale = delta.scale

    def extra_repr(self) -> str:
        return f"rank={self.r.shape[0]}, scale={self.scale:g}"
