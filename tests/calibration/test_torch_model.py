"""Adapters attached by hooks equal PEFT's, forwards and backwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch

from kronq.calibration.batches import TokenSequence, pad_sequences
from kronq.calibration.torch_factors import to_torch_factors
from kronq.calibration.torch_model import answer_logits, attach, load_model, to_torch_batch
from kronq.errors import KronqError, MismatchError
from kronq.genai.session import Session
from kronq.model.adapter import Adapter, Origin
from kronq.readers.load import load
from tests import adapters, tiny
from tests.adapters import difference

CONFIGS = {
    "lokr": peft.LoKrConfig(r=4, alpha=8, decompose_factor=4, target_modules=tiny.LINEARS),
    "lokr, A in two": peft.LoKrConfig(
        r=2, alpha=8, decompose_both=True, decompose_factor=10, target_modules=tiny.LINEARS
    ),
    "lora": peft.LoraConfig(r=4, lora_alpha=6, target_modules=[*tiny.LINEARS, "lm_head"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hooks_compute_what_peft_computes(name: str, tmp_path: Path) -> None:
    wanted = tiny.logits(tiny.save_peft(CONFIGS[name], tmp_path))
    model = tiny.llama()
    base = tiny.logits(model)
    with attach(model, load(tmp_path)):
        assert difference(tiny.logits(model), wanted) < 1e-5
    assert difference(base, wanted) > 0.1
    assert np.array_equal(tiny.logits(model), base), "the model is as it was"


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_factors_apply_as_deltas_do(kind: str) -> None:
    rng = np.random.default_rng(0)
    delta = adapters.KINDS[kind](rng)
    x = rng.normal(size=(2, 5, delta.shape[1])).astype(np.float32)
    factors = to_torch_factors(delta)
    assert difference(factors.apply(torch.from_numpy(x)).numpy(), delta.apply(x)) < 1e-6
    assert np.array_equal(factors.to_delta().dense(), delta.dense())


def test_gradients_are_those_of_peft(tmp_path: Path) -> None:
    reference = tiny.save_peft(CONFIGS["lokr"], tmp_path)
    ids = torch.arange(3, 19)[None]
    reference(ids, labels=ids).loss.backward()
    model = tiny.llama()
    with attach(model, load(tmp_path), trainable=True) as attached:
        model(ids, labels=ids).loss.backward()
    layer = "model.layers.1.mlp.up_proj"
    theirs = reference.get_submodule(f"base_model.model.{layer}")
    for part, tensor in zip(
        ("lokr_w1", "lokr_w2_a", "lokr_w2_b"), attached.factors[layer].tensors, strict=True
    ):
        wanted = getattr(theirs, part)["default"].grad
        assert difference(tensor.grad.numpy(), wanted.numpy()) < 1e-4


def test_factors_can_be_replaced_between_steps(tmp_path: Path) -> None:
    tiny.save_peft(CONFIGS["lokr"], tmp_path)
    model = tiny.llama()
    base = tiny.logits(model)
    with attach(model, load(tmp_path)) as attached:
        for name, factors in attached.factors.items():
            attached.factors[name] = factors.replaced([t * 0 for t in factors.tensors])
        assert np.array_equal(tiny.logits(model), base)
        attached.factors.clear()
        assert np.array_equal(tiny.logits(model), base)


def test_answers_are_predicted_by_the_tokens_before_them() -> None:
    model = tiny.llama()
    sequences = [TokenSequence((5, 6, 7, 8), 2), TokenSequence((9, 10, 11), 1)]
    with torch.no_grad():
        logits, labels = answer_logits(model, to_torch_batch(pad_sequences(sequences)))
        alone = [model(torch.tensor([s.ids])).logits[0, s.start - 1 : -1] for s in sequences]
    assert labels.tolist() == [7, 8, 10, 11]
    assert difference(logits.numpy(), torch.cat(alone).numpy()) < 1e-5


def test_every_layer_without_a_module_is_listed(tmp_path: Path) -> None:
    tiny.save_peft(CONFIGS["lokr"], tmp_path)
    adapter = load(tmp_path)
    layers = {name.replace("layers.1", "layers.7"): delta for name, delta in adapter.items()}
    with (
        pytest.raises(MismatchError, match="7 of 14") as error,
        attach(tiny.llama(), Adapter(layers)),
    ):
        pass
    for part in (*(f"self_attn.{n}" for n in tiny.ATTENTION), "mlp.up_proj"):
        assert f"model.layers.7.{part}" in str(error.value.found)


def test_another_shape_is_refused_and_raw_factors_are_cropped() -> None:
    delta = adapters.kron(np.random.default_rng(0), a=(7, 4), b=(9, 15))
    layer = "model.layers.0.self_attn.q_proj"  # 60×60, and 7·9 = 63 rows
    with (
        pytest.raises(MismatchError, match="another shape"),
        attach(tiny.llama(), Adapter({layer: delta})),
    ):
        pass
    raw = Adapter({layer: delta}, Origin("factors", cropped_by_base=True))
    with attach(tiny.llama(), raw) as attached:
        assert attached.factors[layer].shape == (60, 60)
        assert np.array_equal(
            attached.factors[layer].to_delta().dense(), replace(delta, shape=(60, 60)).dense()
        )


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KronqError, match=r"no config\.json"):
        load_model(tmp_path)


def test_a_real_model_opens_frozen_and_reads_text_as_onnx_runtime_does(
    smollm_hf: Path, smollm_base: Path
) -> None:
    model, tokenize = load_model(smollm_hf, device="cpu")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    text = "Question: What do bees make?\nAnswer: honey"
    assert tokenize(text) == Session(smollm_base).tokenize(text)
