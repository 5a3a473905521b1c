"""Fingerprint of the weights that an adapter's layers have in a torch model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kronq.model.base_fingerprint import (
    GRID,
    BaseFingerprint,
    WeightPrint,
    grid_places,
    join_prints,
    print_weight,
)

if TYPE_CHECKING:
    import torch


def fingerprint_modules(
    modules: Mapping[str, torch.nn.Module], shapes: Mapping[str, tuple[int, int]]
) -> BaseFingerprint | None:
    """Returns the fingerprint of linear modules; None where one has other weights than floats.

    Args:
        modules: Layer → its module.
        shapes: Layer → (d_out, d_in).
    """
    prints = {name: _print_module(module, shapes[name]) for name, module in modules.items()}
    known = {name: each for name, each in prints.items() if each is not None}
    return join_prints(known) if len(known) == len(prints) else None


def _print_module(module: torch.nn.Module, shape: tuple[int, int]) -> WeightPrint | None:
    import torch

    weight = module.weight
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        return None
    if type(module).__name__ == "Conv1D":
        weight = weight.T
    if tuple(weight.shape) != shape:
        return None
    rows, cols = (
        torch.from_numpy(grid_places(size, most)).to(weight.device)
        for size, most in zip(shape, GRID, strict=True)
    )
    grid = weight.detach()[rows][:, cols].float().cpu().numpy()
    return print_weight(grid, shape, rounded=False)
