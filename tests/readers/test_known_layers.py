"""The table of known layers against the modules that diffusers makes."""

from __future__ import annotations

import pytest

from kronq.readers.known_paths import known_layer, restore_dots
from tests.readers.image_models import named_kernels

WHOLE = (
    *("UNet2DConditionModel", "UNet2DModel", "ControlNetModel", "UNetMotionModel"),
    *("UNetSpatioTemporalConditionModel", "AutoencoderKL", "VQModel"),
    *("FluxTransformer2DModel", "Flux2Transformer2DModel", "ChromaTransformer2DModel"),
    *("SD3Transformer2DModel", "QwenImageTransformer2DModel", "WanTransformer3DModel"),
    *("WanVACETransformer3DModel", "SkyReelsV2Transformer3DModel", "ChronoEditTransformer3DModel"),
    *("HunyuanVideoTransformer3DModel", "HunyuanVideo15Transformer3DModel"),
    *("HunyuanVideoFramepackTransformer3DModel", "LTXVideoTransformer3DModel"),
    *("PixArtTransformer2DModel", "SanaTransformer2DModel", "SanaVideoTransformer3DModel"),
    *("AuraFlowTransformer2DModel", "BriaTransformer2DModel", "AllegroTransformer3DModel"),
)
"""Models all of whose layers the table has."""
PARTLY = (
    *("UNet3DConditionModel", "StableCascadeUNet", "LTX2VideoTransformer3DModel"),
    *("CogVideoXTransformer3DModel", "CogView4Transformer2DModel", "MochiTransformer3DModel"),
    *("ZImageTransformer2DModel", "Lumina2Transformer2DModel", "CosmosTransformer3DModel"),
    *("Kandinsky5Transformer3DModel", "StableAudioDiTModel", "PRXTransformer2DModel"),
    *("AutoencoderKLWan", "AutoencoderKLHunyuanVideo", "AutoencoderKLLTXVideo", "AutoencoderDC"),
    *("AutoencoderKLCogVideoX", "AutoencoderKLMochi", "AutoencoderTiny", "DiTTransformer2DModel"),
)


@pytest.mark.parametrize("model", [*WHOLE, *PARTLY])
def test_names_and_kernels(model: str) -> None:
    """No name gets other dots than its own, and no layer another kernel."""
    layers = named_kernels(model)
    restored = {path: restore_dots(path.replace(".", "_")) for path in layers}
    assert {path: name for path, name in restored.items() if name not in (path, None)} == {}
    if model in WHOLE:
        assert [path for path, name in restored.items() if name is None] == []
    for path, kernel in layers.items():
        for name in (path, path.replace(".", "_")):
            known = known_layer(name)
            if known is not None and known.kernel is not None:
                pointwise = "proj_" in path and kernel in ((), (1, 1))
                assert known.kernel == kernel or pointwise, path


def test_names_that_two_models_share() -> None:
    """Flux's ``img_attn.qkv`` and HunyuanVideo's ``img_attn_qkv`` flatten to one name."""
    assert restore_dots("double_blocks_3_img_attn_qkv") == "double_blocks.3.img_attn.qkv"
    assert restore_dots("double_blocks_3_img_attn_qkv", hunyuan=True) == (
        "double_blocks.3.img_attn_qkv"
    )


@pytest.mark.parametrize(
    ("path", "kernel"),
    [
        ("input_blocks.0.0", (3, 3)),
        ("input_blocks.4.0.in_layers.2", (3, 3)),
        ("output_blocks.5.2.conv", (3, 3)),
        ("input_blocks.3.0.op", (3, 3)),
        ("middle_block.2.out_layers.3", (3, 3)),
        ("input_blocks.4.0.skip_connection", (1, 1)),
        ("out.2", (3, 3)),
        ("input_blocks.4.1.transformer_blocks.0.attn1.to_q", ()),
    ],
)
def test_names_of_the_first_release(path: str, kernel: tuple[int, ...]) -> None:
    known = known_layer(path)
    assert known is not None
    assert known.kernel == kernel
    assert restore_dots(path.replace(".", "_")) == path
