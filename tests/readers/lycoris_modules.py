"""Modules of LyCORIS with drawn values, their files, and the ΔW that they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lycoris.modules.base import LycorisBaseModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file
from torch import nn

ALGORITHMS = {"lokr": LokrModule, "locon": LoConModule, "loha": LohaModule}
LAYERS = {
    "linear": lambda: nn.Linear(24, 36),
    "conv1d": lambda: nn.Conv1d(24, 36, 3),
    "conv2d": lambda: nn.Conv2d(24, 36, 3, padding=1),
    "uneven": lambda: nn.Conv2d(24, 36, (5, 3)),
    "1x1": lambda: nn.Conv2d(24, 36, 1),
    "strided": lambda: nn.Conv2d(24, 36, 3, stride=2),
    "grouped": lambda: nn.Conv2d(24, 36, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(24, 36, (1, 2, 2)),
}


def make_module(algorithm: str, layer: nn.Module, **settings: Any) -> LycorisBaseModule:
    """Returns a module of drawn float32 values, or of values that a dtype holds."""
    dtype = settings.pop("dtype", torch.float32)
    torch.manual_seed(3)
    module = ALGORITHMS[algorithm]("lycoris_proj", layer, **settings)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
            parameter.copy_(parameter.to(dtype))
    return module


def save_module(module: LycorisBaseModule, path: Path, key: str = "lycoris_proj") -> Path:
    tensors = {f"{key}.{k}": v.detach().contiguous() for k, v in module.state_dict().items()}
    save_file(tensors, path)
    return path


def delta_of(module: LycorisBaseModule) -> np.ndarray:
    """What the module's forward adds to the weight; ``get_diff_weight`` of LoKr and LoHa
    multiplies by the scale twice."""
    with torch.no_grad():
        if isinstance(module, LoConModule):
            return (module.make_weight() * module.scale).numpy()
        return (module.get_weight(module.shape) * module.scalar).numpy()
