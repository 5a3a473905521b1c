"""Networks of LyCORIS on whole models, with drawn values, their files and the ΔW they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lycoris import LycorisNetwork, create_lycoris
from torch import nn

from tests.readers.lycoris_modules import delta_of

SETTINGS: dict[str, dict[str, Any]] = {
    "low rank": {"algo": "lokr", "linear_dim": 2, "conv_dim": 2, "factor": 4, "linear_alpha": 3},
    "whole": {"algo": "lokr", "full_matrix": True, "factor": 4},
    "both": {"algo": "lokr", "linear_dim": 1, "decompose_both": True, "linear_alpha": 4},
    "tucker": {"algo": "lokr", "linear_dim": 2, "conv_dim": 2, "factor": 4, "use_tucker": True},
    "LoCon": {"algo": "locon", "linear_dim": 3, "conv_dim": 2, "linear_alpha": 5},
    "LoHa": {"algo": "loha", "linear_dim": 2, "conv_dim": 2, "linear_alpha": 3},
}
Deltas = dict[str, np.ndarray]


def network_of(model: nn.Module, settings: dict[str, Any]) -> LycorisNetwork:
    """A network on all of a model's linear layers and convolutions."""
    before = {name: value for name, value in vars(LycorisNetwork).items() if name.isupper()}
    LycorisNetwork.apply_preset({"enable_conv": True, "target_module": [type(model).__name__]})
    try:
        network = create_lycoris(model, 1.0, **settings)
    finally:  # a preset is the class's, and stays
        for name, value in before.items():
            setattr(LycorisNetwork, name, value)
    network.apply_to()
    return network


def trained(model: nn.Module, path: Path, **settings: Any) -> Deltas:
    """Saves a network of drawn values; returns key → ΔW, as LyCORIS computes it."""
    network = network_of(model, settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    network.save_weights(str(path), torch.float32, {})
    found = {module.lora_name: delta_of(module) for module in network.loras}
    assert len(found) > 30
    return found
