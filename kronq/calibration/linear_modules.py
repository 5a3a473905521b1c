"""Which torch modules are linear layers, and their sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def linear_shape(module: torch.nn.Module) -> tuple[int, int] | None:
    """Returns (d_out, d_in) of a linear module or transformers' Conv1D; None for any other."""
    import torch

    if isinstance(module, torch.nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return module.nf, int(module.weight.shape[0])
    return None
