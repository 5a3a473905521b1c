"""Input moments through ONNX Runtime equal torch's, for a tiny Llama and a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import kronq
from kronq.calibration.input_moments import calibrate
from kronq.calibration.torch_model import load_model
from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from tests import adapters, tiny
from tests.adapters import difference
from tests.calibration import torch_inputs
from tests.paths import EXAMPLE

EXAMPLES = [
    Example("Question: Which gas do plants take in?\nAnswer:", (" oxygen", " carbon dioxide"), 1),
    Example("", ("Bees make honey.",)),
    Example("", ("Rivers flow to the sea, and so on.",)),
]
BLOCK = [*(f"self_attn.{n}" for n in tiny.ATTENTION), "mlp.up_proj", "mlp.down_proj"]


def tokenize(text: str) -> list[int]:
    return [ord(letter) % 50 for letter in text]


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests.tiny.llama through torch's exporter."""
    path = tmp_path_factory.mktemp("llama") / "model.onnx"
    model = tiny.llama()
    ids = torch.arange(3, 19).reshape(2, 8)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    torch.onnx.export(
        model,
        kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False},
        f=path,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": axes, "attention_mask": axes, "use_cache": None},
        verbose=False,
    )
    return path


@pytest.mark.slow
def test_a_tiny_llama_in_one_padded_batch(tiny_base: Path, tmp_path: Path) -> None:
    model = tiny.llama()
    names = [f"model.layers.{i}.{part}" for i in range(2) for part in BLOCK]
    rng = np.random.default_rng(0)
    shapes = {name: model.get_submodule(name).weight.shape for name in names}
    adapter = Adapter({name: adapters.lora(rng, *shape) for name, shape in shapes.items()})
    found = calibrate(adapter, tiny_base, EXAMPLES, tokenize=tokenize, cache=tmp_path)
    texts = [tokenize(example.text) for example in EXAMPLES]
    for name, wanted in torch_inputs.inputs_of(model, names, texts).items():
        assert difference(found[name].inputs, wanted) < 1e-5
    block = {part: found[f"model.layers.1.{part}"].inputs for part in BLOCK}
    assert block["self_attn.q_proj"] is block["self_attn.v_proj"], "one array, as one input"
    assert block["self_attn.q_proj"] is not block["self_attn.o_proj"]


@pytest.mark.slow
def test_a_real_model(smollm_base: Path, smollm_hf: Path, tmp_path: Path) -> None:
    names = [f"model.layers.{i}.{part}" for i in (0, 3) for part in BLOCK]
    adapter = Adapter({name: delta for name, delta in kronq.load(EXAMPLE).items() if name in names})
    found = calibrate(adapter, smollm_base, EXAMPLES, cache=tmp_path, device="cpu")
    model, to_ids = load_model(smollm_hf, device="cpu")
    texts = [to_ids(example.text) for example in EXAMPLES]
    assert found.tokens == sum(map(len, texts))
    for name, wanted in torch_inputs.inputs_of(model, names, texts).items():
        assert difference(found[name].inputs, wanted) < 1e-4
