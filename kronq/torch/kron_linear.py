"""``KronLinear``: a linear layer with a Kron-LoRA, LoKr or LoRA beside it, by its factors alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kronq.errors import ArgumentError
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.torch.factor_product import FrozenWithFactors, add_product, blocks, mix


class KronLinear(nn.Module):  # type: ignore[misc]
    """Computes y = W·x + scale · (A ⊗ B)·x with A, B1 and B2 as they are.

    PEFT's and LyCORIS's LoKr build the Kronecker product, as large as W, and multiply by it, in
    every step forth and back. Here x is read as [a_in, b_in], since
    (A ⊗ B)·x = A · X · Bᵀ, and B stays B1·B2: three small products a token, and no gradient of the
    size of W. Outputs and gradients are the same up to rounding. W·x and the adapter are one
    operation of autograd, which can be differentiated once; under autocast, with dropout, hooks on
    the base or a base that is trained too they are several.

    W is frozen. B1 (B, where it is whole) begins at zero, so ΔW does; A and B2 begin uniform, as
    ``torch.nn.Linear`` does.

    Attributes:
        base: The layer that is adapted; its parameters need no gradient.
        a: A [a_out, a_in]; None for a LoRA.
        b1: B1 [b_out, rank], or all of B [b_out, b_in] where ``b2`` is None.
        b2: B2 [rank, b_in], or None.
        scale: Factor of ΔW, such as α/r.
    """

    a: nn.Parameter | None
    b2: nn.Parameter | None

    def __init__(self, base: nn.Linear, like: Delta, *, scale: float = 1.0, dropout: float = 0.0):
        """Adapts a layer.

        Args:
            base: The layer. It is kept, and frozen.
            like: An adapter of the layer whose shapes are taken, not its values.
            scale: Factor of ΔW.
            dropout: Probability that an entry of x is left out of the adapter's input in training.

        Raises:
            ArgumentError: ``like`` is of another size, or of a convolution or a DoRA.
        """
        super().__init__()
        size = (base.out_features, base.in_features)
        if like.shape != size or like.kernel or like.magnitude is not None or like.a.right:
            raise ArgumentError(
                "no adapter of this linear layer", found=repr(like), expected=f"ΔW {size}, A whole"
            )
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        weight = base.weight

        def parameter(shape: tuple[int, int], *, zero: bool = False) -> nn.Parameter:
            values = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
            if not zero:
                nn.init.kaiming_uniform_(values, a=math.sqrt(5))
            return nn.Parameter(values)

        self.a = None if like.a is ONE else parameter(like.a.shape)
        self.b1 = parameter(like.b.left.shape, zero=True)
        self.b2 = None if like.b.right is None else parameter(like.b.right.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Returns y [..., d_out] of x [..., d_in]."""
        if self._is_one_operation(x):
            frozen = (self.base.weight, self.base.bias)
            factors = (self.a, self.b1, self.b2)
            y: Tensor = FrozenWithFactors.apply(x, frozen, *factors, self.scale)[0]
            return y
        whole = self.b1 if self.b2 is None else self.b2
        a_out, a_in = (1, 1) if self.a is None else self.a.shape
        h = blocks(self.dropout(x), a_in, whole.shape[1]).t()
        if self.b2 is not None:
            h = self.b2.mm(h)
        return add_product(
            self.base(x), a_out, mix(h, self.a), self.b1.t().contiguous(), self.scale
        )

    def _is_one_operation(self, x: Tensor) -> bool:
        """Whether nothing looks or reaches into what ``FrozenWithFactors`` computes at once."""
        base = self.base
        return (
            self.b2 is not None
            and type(base) is nn.Linear
            and not (base._forward_hooks or base._forward_pre_hooks or "forward" in vars(base))
            and not any(p.requires_grad for p in base.parameters())
            and not (self.training and isinstance(self.dropout, nn.Dropout))
            and x.dtype == base.weight.dtype == self.b1.dtype
            and not torch.is_autocast_enabled(x.device.type)
        )

    def delta(self) -> Delta:
        """Returns the adapter as it is now, copied to float32."""
        a = ONE if self.a is None else Product(_float(self.a))
        b = Product(_float(self.b1), None if self.b2 is None else _float(self.b2))
        return Delta(a, b, self.scale, (self.base.out_features, self.base.in_features))

    def load(self, delta: Delta) -> None:
        """Takes an adapter's factors and scale, to train on.

        Raises:
            ArgumentError: It has other shapes.
        """
        size = (self.base.out_features, self.base.in_features)
        shapes = [m.shape for m in (*delta.a.matrices, *delta.b.matrices)]
        if delta.shape != size or shapes != self._shapes():
            raise ArgumentError(
                "an adapter of other shapes", found=repr(delta), expected=f"ΔW {size}"
            )
        pairs: list[tuple[Any, Any]] = [(self.b1, delta.b.left), (self.b2, delta.b.right)]
        if self.a is not None:
            pairs.append((self.a, delta.a.left))
        with torch.no_grad():
            for parameter, matrix in pairs:
                if matrix is not None:
                    parameter.copy_(torch.from_numpy(matrix.float32().copy()))
        self.scale = delta.scale

    def _shapes(self) -> list[tuple[int, ...]]:
        a = (1, 1) if self.a is None else tuple(self.a.shape)
        return [a, tuple(self.b1.shape), *([] if self.b2 is None else [tuple(self.b2.shape)])]

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


def _float(parameter: Tensor) -> Float:
    return Float(parameter.detach().to("cpu", torch.float32, copy=True).contiguous().numpy())
