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
from kronq.model.layer_names import natural_key

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
    prints = [_print_module(modules[n], shapes[n]) for n in sorted(modules, key=natural_key)]
    known = [each for each in prints if each is not None]
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
