"""Tiny models of images by diffusers, with random weights: a UNet and a Flux transformer."""

from __future__ import annotations

import copy
from functools import cache

import diffusers
import torch
from torch import nn


@cache
def _unet() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()


@cache
def _flux() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def unet() -> nn.Module:
    """33 convolutions, 40 linear layers and 10 of time; proj_in and proj_out are convolutions."""
    return copy.deepcopy(_unet())


def flux() -> nn.Module:
    """Two double blocks and two single ones, whose norms have linear layers of many sizes."""
    return copy.deepcopy(_flux())
