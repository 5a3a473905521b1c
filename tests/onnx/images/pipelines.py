"""A tiny pipeline of an image model, in torch and as optimum-onnx writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

SAMPLE = (2, 4, 8, 8)
TOKENS = np.array([[0, 5, 17, 42, 1, 1, 1]] * 2)
AXES = {
    "unet": {
        "sample": {0: "batch_size", 2: "height", 3: "width"},
        "encoder_hidden_states": {0: "batch_size", 1: "sequence_length"},
        "out_sample": {0: "batch_size", 2: "height", 3: "width"},
    },
    "text_encoder": {"input_ids": {0: "batch_size", 1: "sequence_length"}},
}
"""Sizes that optimum-onnx leaves open."""
PRESET = ("ResnetBlock2D", "Transformer2DModel", "Downsample2D", "Upsample2D", "TimestepEmbedding")
"""Modules of a UNet in which LyCORIS's full preset adapts every linear layer and convolution."""


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The two models that an adapter changes."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel

    def run(self) -> np.ndarray:
        """What the UNet says of a picture and the words that the text encoder read."""
        with torch.no_grad():
            words = self.text_encoder(torch.from_numpy(TOKENS)).last_hidden_state
            return self.unet(sample(), torch.tensor(7), words, return_dict=False)[0].numpy()


def sample() -> torch.Tensor:
    return torch.randn(SAMPLE, generator=torch.Generator().manual_seed(1))


def make_pipeline() -> Pipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=36,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=100,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    pipeline = Pipeline(unet.eval(), CLIPTextModel(config).eval())
    for model in (pipeline.unet, pipeline.text_encoder):
        for parameter in model.parameters():
            if parameter.dim() == 1:  # the exporter joins biases and norms that are equal
                parameter.data += 0.1 * torch.randn_like(parameter)
    return pipeline


def write_pipeline(pipeline: Pipeline, folder: Path) -> Path:
    """Writes what optimum-onnx 0.1 writes; it does not import beside transformers 5."""
    words = torch.randn(2, TOKENS.shape[1], 16)
    feeds = {
        "unet": (sample(), torch.tensor(7), words),
        "text_encoder": (torch.from_numpy(TOKENS),),
    }
    models = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    names = {
        "unet": (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
        "text_encoder": (["input_ids"], ["last_hidden_state", "pooler_output"]),
    }
    for part, model in models.items():
        (folder / part).mkdir(parents=True)
        inputs, outputs = names[part]
        torch.onnx.export(
            model.eval(),
            feeds[part],
            folder / part / "model.onnx",
            dynamo=False,
            opset_version=18,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=AXES[part],
        )
        (folder / part / "config.json").write_text(json.dumps({"part": part}))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    index = {"_class_name": "ORTStableDiffusionPipeline", "unet": ["diffusers", "ORTUnet"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def run_folder(folder: Path, more: dict[str, dict[str, np.ndarray]] | None = None) -> np.ndarray:
    """The same as ``Pipeline.run``, of a folder's models in ONNX Runtime."""
    given = more or {}

    def run(part: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
        file = folder / part / "model.onnx"
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return session.run(None, feeds | given.get(part, {}))[0]

    words = run("text_encoder", {"input_ids": TOKENS})
    feeds = {"sample": sample().numpy(), "timestep": np.array(7), "encoder_hidden_states": words}
    return run("unet", feeds)
