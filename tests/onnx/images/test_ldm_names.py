"""Adapters with names of the original Stable Diffusion code on UNets exported from diffusers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import UNet2DConditionModel  # noqa: E402
from diffusers.loaders.single_file_utils import (  # noqa: E402
    LDM_UNET_KEY,
    convert_ldm_unet_checkpoint,
)
from safetensors.torch import save_file  # noqa: E402

import kronq  # noqa: E402
from kronq.errors import MismatchError  # noqa: E402
from kronq.onnx.graph.ldm_names import ldm_names  # noqa: E402
from kronq.onnx.matched_base import match_base  # noqa: E402
from tests.onnx.images.test_convolutions import EXACT, apart  # noqa: E402

ATTENTIONS = [f"attn{n}.to_{part}" for n in (1, 2) for part in ("q", "k", "v", "out.0")]
LEVELS = {
    "sdxl": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32,
    },
    "sd15": {
        "block_out_channels": (8, 16, 16, 16),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "layers_per_block": 2,
    },
    "one block a level": {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
    },
}


def make_unet(kind: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    common = {"sample_size": 8, "cross_attention_dim": 12, "norm_num_groups": 4}
    return UNet2DConditionModel(**common, attention_head_dim=4, **LEVELS[kind]).eval()


def ldm_layers(config: dict) -> Iterator[str]:
    """Layers in the order in which ``openaimodel.UNetModel`` makes them, some that are not too."""

    def resnet(place: str) -> Iterator[str]:
        parts = ("in_layers.2", "emb_layers.1", "out_layers.3", "skip_connection")
        yield from (f"{place}.{part}" for part in parts)

    def attention(place: str, depth: int) -> Iterator[str]:
        yield from (f"{place}.proj_in", f"{place}.proj_out")
        for i in range(depth):
            for part in (*ATTENTIONS, "ff.net.0.proj", "ff.net.2"):
                yield f"{place}.transformer_blocks.{i}.{part}"

    count, kinds = config["layers_per_block"], config["down_block_types"]
    depths = config["transformer_layers_per_block"]
    depths = [depths] * len(kinds) if isinstance(depths, int) else [*depths]
    crossed = ["CrossAttn" in kind for kind in kinds]
    yield from ("time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2")
    yield from ("input_blocks.0.0", "out.2")
    number = 1
    for level in range(len(kinds)):
        for _ in range(count):
            yield from resnet(f"input_blocks.{number}.0")
            if crossed[level]:
                yield from attention(f"input_blocks.{number}.1", depths[level])
            number += 1
        if level < len(kinds) - 1:
            yield f"input_blocks.{number}.0.op"
            number += 1
    yield from (*resnet("middle_block.0"), *resnet("middle_block.2"))
    yield from attention("middle_block.1", depths[-1])
    number = 0
    for level in reversed(range(len(kinds))):
        for i in range(count + 1):
            yield from resnet(f"output_blocks.{number}.0")
            if crossed[level]:
                yield from attention(f"output_blocks.{number}.1", depths[level])
            if level and i == count:
                yield f"output_blocks.{number}.{1 + crossed[level]}.conv"
            number += 1


def names_by_diffusers(unet: UNet2DConditionModel) -> dict[str, str]:
    """LDM's name → diffusers' name, as diffusers' own converter says."""
    weights = {f"{n}.weight" for n, m in unet.named_modules() if hasattr(m, "in_channels")}
    weights |= {f"{n}.weight" for n, m in unet.named_modules() if hasattr(m, "in_features")}
    checkpoint = {
        f"{LDM_UNET_KEY}{name}.{part}": name
        for name in ldm_layers(unet.config)
        for part in ("weight", "bias")
    }
    known = {n for n in weights if n in unet.state_dict()}
    converted = convert_ldm_unet_checkpoint(checkpoint, unet.config)
    found = {ldm: key[: -len(".weight")] for key, ldm in converted.items() if key in known}
    assert {f"{name}.weight" for name in found.values()} == known
    return found


def train(unet: UNet2DConditionModel, file: Path) -> tuple[dict[str, str], UNet2DConditionModel]:
    """Writes a file as kohya's scripts do; the UNet that diffusers makes of W + ΔW in LDM names."""
    names, own = names_by_diffusers(unet), unet.state_dict()
    tensors, checkpoint = {}, {}
    torch.manual_seed(3)
    for ldm, name in names.items():
        weight = own[f"{name}.weight"]
        down = torch.randn(2, *weight.shape[1:]) * 0.1
        up = torch.randn(len(weight), 2, *[1] * (weight.dim() - 2))
        key = f"lora_unet_{ldm.replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
        change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        checkpoint[f"{LDM_UNET_KEY}{ldm}.weight"] = weight + change
        if (bias := own.get(f"{name}.bias")) is not None:
            checkpoint[f"{LDM_UNET_KEY}{ldm}.bias"] = bias
    save_file(tensors, file)
    changed = copy.deepcopy(unet)
    changed.load_state_dict(own | convert_ldm_unet_checkpoint(checkpoint, unet.config), strict=True)
    return names, changed


def feeds(kind: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    found = {"sample": torch.randn(2, 4, 8, 8), "timestep": torch.tensor(7)}
    found["encoder_hidden_states"] = torch.randn(2, 5, 12)
    if kind == "sdxl":
        found |= {"text_embeds": torch.randn(2, 8), "time_ids": torch.rand(2, 6)}
    return found


class Named(torch.nn.Module):
    """A UNet whose extra conditions are inputs like others, as optimum-onnx exports it."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, words: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor:
        added = dict(zip(("text_embeds", "time_ids"), more, strict=True)) if more else None
        return self.unet(sample, timestep, words, added_cond_kwargs=added, return_dict=False)[0]


def write(unet: UNet2DConditionModel, kind: str, path: Path) -> Path:
    names = [*feeds(kind)]
    torch.onnx.export(
        Named(unet),
        (*feeds(kind).values(),),
        path,
        dynamo=False,
        opset_version=18,
        input_names=names,
        output_names=["y"],
    )
    return path


def run(path: Path, kind: str) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {k: v.numpy() for k, v in feeds(kind).items()})[0]


@pytest.mark.parametrize(
    "kind",
    ["one block a level", *(pytest.param(k, marks=pytest.mark.slow) for k in ("sdxl", "sd15"))],
)
def test_every_layer_is_the_one_that_diffusers_converts(tmp_path: Path, kind: str) -> None:
    unet = make_unet(kind)
    base = write(unet, kind, tmp_path / "base.onnx")
    names, changed = train(unet, tmp_path / "kohya.safetensors")
    adapter = kronq.load(tmp_path / "kohya.safetensors")
    assert len(adapter) == len(names)

    matched = match_base(adapter, base)

    by_flat = {ldm.replace(".", "_"): name for ldm, name in names.items()}
    for layer, sites in matched.matches.items():
        flat = layer.removeprefix("lora_unet_").replace(".", "_")
        places = {site.label.strip("/").replace("/", ".") for site in sites}
        assert {p.removeprefix("unet.").rsplit(".", 1)[0] for p in places} == {by_flat[flat]}
    with torch.no_grad():
        plain, wanted = (Named(m)(*feeds(kind).values()).numpy() for m in (unet, changed))
    for form in ("branch", "merged"):
        kronq.export_onnx(adapter, base, tmp_path / form, form=form, verify=False)
        found = run(tmp_path / form / "model.onnx", kind)
        assert apart(found, wanted) < EXACT < 1e-2 < apart(plain, wanted)


def test_a_unet_of_another_depth_is_refused(tmp_path: Path) -> None:
    """input_blocks.3 is a resnet of a level with three, and a downsampler of one with two."""
    base = write(make_unet("one block a level"), "sd15", tmp_path / "base.onnx")
    train(make_unet("sd15"), tmp_path / "kohya.safetensors")
    with pytest.raises(MismatchError):
        kronq.export_onnx(kronq.load(tmp_path / "kohya.safetensors"), base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_unet_that_is_not_whole_has_no_names_in_ldm() -> None:
    """A graph that hides a layer (a quantizer's convolution) would shift all numbers behind it."""
    unet = make_unet("sd15")
    layers = [n for n, m in unet.named_modules() if hasattr(m, "weight") and "norm" not in n]
    names = [name.replace(".", "_") for name in layers]
    assert len({*ldm_names(names)}) == len(names)
    for gone in ("down_blocks_1_downsamplers_0", "up_blocks_1_resnets_2", "down_blocks_0_resnets"):
        assert not [*ldm_names([name for name in names if not name.startswith(gone)])]
