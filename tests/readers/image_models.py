"""Models of diffusers: tiny ones, and whole ones without weights for their modules' names."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from lycoris import LycorisNetwork, create_lycoris
from safetensors.torch import save_file
from torch import nn

from tests.readers.lycoris_modules import delta_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_COUNTS = ("num_layers", "num_single_layers", "num_refiner_layers", "n_layers")
_TARGETS = ["UNet2DConditionModel", "FluxTransformer2DModel", "WanTransformer3DModel", "Encoder"]


def unet(**settings: Any) -> diffusers.UNet2DConditionModel:
    """A UNet of Stable Diffusion's kind, two blocks of 32 and 64 channels."""
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
        **settings,
    ).eval()


class Encoder(nn.Module):
    """Names of a text encoder's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(32, 64), "fc2": nn.Linear(64, 32)})


def wan() -> diffusers.WanTransformer3DModel:
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=96,
        num_layers=1,
        rope_max_seq_len=64,
    ).eval()


def named_kernels(model: str) -> dict[str, tuple[int, ...]]:
    """Module's path → its kernel, empty if it is linear; one block of each kind where it can be."""
    kind = getattr(diffusers, model)
    known = inspect.signature(kind.__init__).parameters
    settings: dict[str, Any] = {name: 1 for name in _COUNTS if name in known}
    if "vace_layers" in known:
        settings["vace_layers"] = [0]
    if "cross_attention_dim" in known and model.startswith("UNet2D"):
        settings["cross_attention_dim"] = 768
    with torch.device("meta"):
        whole = kind(**settings)
    modules = {n: m for n, m in whole.named_modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))}
    return {n: getattr(m, "kernel_size", ()) for n, m in modules.items()}


def save_network(
    model: nn.Module, path: Path, front: str = "lycoris_", **settings: Any
) -> dict[str, np.ndarray]:
    """Saves an adapter of every linear layer and convolution; returns key → ΔW."""
    metadata = settings.pop("metadata", {})
    preset = {name: value for name, value in vars(LycorisNetwork).items() if name.isupper()}
    LycorisNetwork.apply_preset({"target_module": _TARGETS, "enable_conv": True})
    network = create_lycoris(model, 1.0, **{"linear_dim": 2, "linear_alpha": 3, **settings})
    network.apply_to()
    for name, value in preset.items():  # which are the class's, for every later network
        setattr(LycorisNetwork, name, value)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    tensors = {}
    for module in network.loras:
        key = front + module.lora_name.removeprefix("lycoris_")
        tensors |= {f"{key}.{k}": v.detach().contiguous() for k, v in module.state_dict().items()}
    save_file(tensors, path, metadata)
    return {front + m.lora_name.removeprefix("lycoris_"): delta_of(m) for m in network.loras}
