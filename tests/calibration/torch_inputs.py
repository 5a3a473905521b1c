"""Inputs of every linear layer, by torch's own hooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn


def inputs_of(
    model: nn.Module, names: Iterable[str], sequences: Iterable[Sequence[int]]
) -> dict[str, np.ndarray]:
    """E[x·xᵀ] of each layer in float64, sequence by sequence, so that nothing is padded."""
    names = list(names)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: rows[name].append(args[0][0].double().numpy())
        )
        for name in names
    ]
    with torch.no_grad():
        for ids in sequences:
            model(torch.tensor([[*ids]]))
    for handle in handles:
        handle.remove()
    stacked = {name: np.concatenate(found) for name, found in rows.items()}
    return {name: x.T @ x / len(x) for name, x in stacked.items()}
