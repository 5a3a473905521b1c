"""Convolutions of every geometry, with LyCORIS's modules on them, and the same as an Adapter."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.lokr import LokrModule
from torch import nn

from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float

GEOMETRIES: dict[str, nn.Module] = {
    "plain": nn.Conv2d(16, 24, 3, padding=1),
    "stride": nn.Conv2d(16, 24, 3, stride=2, padding=1),
    "uneven": nn.Conv2d(16, 24, (3, 5), stride=(2, 1), padding=(0, 2), dilation=(2, 1)),
    "pointwise": nn.Conv2d(16, 24, 1),
    "no bias": nn.Conv2d(16, 24, 3, bias=False),
    "groups": nn.Conv2d(16, 24, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(24, 24, 3, padding=1, groups=24),
    "1d": nn.Conv1d(16, 24, 4, stride=2, padding=1),
    "3d": nn.Conv3d(8, 12, (1, 3, 3), padding=(0, 1, 1)),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "lokr": {"lora_dim": 3, "factor": 4},
    "lokr whole": {"lora_dim": 10000, "factor": 4},
    "lokr split": {"lora_dim": 2, "factor": 4, "decompose_both": True, "use_tucker": False},
    "locon": {"lora_dim": 4},
}
"""Settings of LyCORIS's modules; the first word is the module."""


def adapted(
    layer: nn.Module, family: str, name: str = "layer", **settings: Any
) -> LokrModule | LoConModule:
    """LyCORIS's module on a layer, with random factors."""
    kind = LoConModule if family == "locon" else LokrModule
    module = kind(name, layer, 1.0, alpha=2, **FAMILIES[family] | settings)
    for key, parameter in module.named_parameters():
        if key.startswith(("lokr", "lora")):
            nn.init.normal_(parameter, std=0.3)
        if key == "dora_scale":
            parameter.data *= 1 + torch.rand_like(parameter)
    return module.eval()


def delta_of(module: LokrModule | LoConModule, layer: nn.Module) -> Delta:
    """The normal form of a module's tensors, by their names alone."""
    tensors = {k: v.detach().numpy() for k, v in module.state_dict().items()}
    found = factors_of(module, layer, tensors)
    magnitude = tensors.get("dora_scale")
    if magnitude is None:
        return found
    return replace(found, magnitude=Float(magnitude.reshape(magnitude.shape[:2])))


def factors_of(module: Any, layer: nn.Module, tensors: dict[str, np.ndarray]) -> Delta:
    kernel = tuple(layer.weight.shape[2:])

    def matrix(key: str) -> Float:
        array = tensors[key]
        return Float(np.ascontiguousarray(array.reshape(len(array), -1)))

    def product(key: str) -> Product:
        if key in tensors:
            return Product(matrix(key))
        return Product(matrix(f"{key}_a"), matrix(f"{key}_b"))

    if "lora_up.weight" in tensors:
        b = Product(matrix("lora_up.weight"), matrix("lora_down.weight"))
        return Delta.uncropped(ONE, b, module.scale, kernel)
    scale = 1.0 if {"lokr_w1", "lokr_w2"} <= {*tensors} else module.scale
    return Delta.uncropped(product("lokr_w1"), product("lokr_w2"), scale, kernel)


def layer_input(layer: nn.Module, seed: int = 0) -> torch.Tensor:
    sizes = {1: (11,), 2: (11, 9), 3: (3, 7, 6)}[layer.weight.dim() - 2]
    torch.manual_seed(seed)
    return torch.randn(2, layer.in_channels, *sizes)


def export(model: nn.Module, x: torch.Tensor, path: Path, *, dynamo: bool = False) -> Path:
    """By torch.onnx, batch and sizes left open by the older exporter."""
    names = {"input_names": ["x"], "output_names": ["y"]}
    if dynamo:
        torch.onnx.export(model.eval(), (x,), path, dynamo=True, verbose=False, **names)
    else:
        free = {i: f"d{i}" for i in range(x.dim()) if i != 1}
        torch.onnx.export(
            model.eval(),
            (x,),
            path,
            dynamo=False,
            opset_version=17,
            dynamic_axes={"x": free},
            **names,
        )
    return path


def one_layer(layer: nn.Module, family: str, **settings: Any) -> tuple[Adapter, nn.Module]:
    """An adapter of the layer ``0``, and a layer that LyCORIS's module is applied to."""
    own = copy.deepcopy(layer)
    module = adapted(own, family, **settings)
    adapter = Adapter({"0": delta_of(module, own)})
    module.apply_to()
    return adapter, own
