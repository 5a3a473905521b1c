"""Products of the factors A, B1 and B2 with a layer's inputs, in the order that is quick.

With t = (A ⊗ B2)·x the adapter's part of y is B1·t. As ranks are small, these matrices are
thousands long and a few wide: BLAS multiplies them up to six times as fast where the long side is
the row, as t and its gradient are held here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def blocks(x: Tensor, count: int, size: int) -> Tensor:
    """Returns rows of x in ``count`` blocks each, zeros behind the last entry: [·, size]."""
    rows = x.reshape(-1, x.shape[-1])
    missing = count * size - x.shape[-1]
    return (torch.nn.functional.pad(rows, (0, missing)) if missing else rows).reshape(-1, size)


def mix(h: Tensor, a: Tensor | None) -> Tensor:
    """Returns A times the blocks of each row: [rank, rows · a_out] of [rank, rows · a_in]."""
    return h if a is None else h.reshape(-1, a.shape[1]).mm(a.t()).view(len(h), -1)


def add_product(
    y: Tensor, count: int, left: Tensor, right: Tensor, scale: float, *, in_place: bool = False
) -> Tensor:
    """Returns y + scale · leftᵀ·right, of which ``count`` rows make one of y, cropped.

    Args:
        y: [..., width].
        count: Blocks of a row.
        left: [rank, rows · count].
        right: [rank, size of a block].
        scale: Factor of the product.
        in_place: Changes y. Not for autograd.
    """
    width, size = y.shape[-1], right.shape[1]
    if count * size == width:
        rows = y.reshape(-1, size)
        add = rows.addmm_ if in_place else rows.addmm
        return add(left.t(), right, alpha=scale).view(y.shape)
    part = left.t().mm(right).view(left.shape[1] // count, count * size)[:, :width]
    return (y.add_ if in_place else y.add)(part.reshape(y.shape), alpha=scale)


class FrozenWithFactors(torch.autograd.Function):  # type: ignore[misc]
    """y = W·x + b + scale · (A ⊗ B1·B2)·x as one operation, where W and b are frozen.

    Both y and the gradient of x are completed where W's part of them lies, not in other arrays of
    their size.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        frozen: tuple[Tensor, Tensor | None],
        a: Tensor | None,
        b1: Tensor,
        b2: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns y [..., d_out], and for the gradients B2·x and t, a row for each rank."""
        a_out, a_in = (1, 1) if a is None else a.shape
        h = b2.mm(blocks(x, a_in, b2.shape[1]).t())
        t = mix(h, a)
        y = torch.nn.functional.linear(x, *frozen)
        return add_product(y, a_out, t, b1.t(), scale, in_place=True), h, t

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps what the gradients need."""
        x, frozen, a, b1, b2, ctx.scale = inputs
        _, h, t = output
        ctx.mark_non_differentiable(h, t)
        ctx.save_for_backward(x, frozen[0], a, b1, b2, h, t)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Returns the gradients of x, A, B1 and B2."""
        x, weight, a, b1, b2, h, t = ctx.saved_tensors
        a_out, a_in = (1, 1) if a is None else a.shape
        of_y = blocks(grad, a_out, len(b1))
        # b1.t().contiguous() would be b1 itself where it has one column or one row.
        of_t = (b1 * ctx.scale).t().contiguous().mm(of_y.t())
        of_b1 = t.mm(of_y).t() * ctx.scale
        of_a = None if a is None else of_t.view(-1, a_out).t().mm(h.view(-1, a_in))
        of_h = mix(of_t, None if a is None else a.t())
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = add_product(grad.matmul(weight), a_in, of_h, b2, 1.0, in_place=True)
        of_b2 = of_h.mm(blocks(x, a_in, b2.shape[1]))
        return of_x, None, of_a, of_b1, of_b2, None
