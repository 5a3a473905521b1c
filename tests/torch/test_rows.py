"""Packed rows: the gradients of plain padding by transformers, for models of many kinds."""

import numpy as np
import pytest
import torch
import transformers

import kronq.torch
from kronq import AdapterShape
from kronq.calibration.batches import TokenSequence, pad_sequences
from kronq.torch.training.rows import (
    ROW_TOKENS,
    asked_logits,
    choose_rows,
    pack_rows,
    pad_rows,
    split_batch,
)
from kronq.torch.training.steps import add_gradients

SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {"intermediate_size": 48, "num_key_value_heads": 2}
MODELS = {
    "llama": transformers.LlamaConfig(**SIZES, **WIDE),
    "eager": transformers.LlamaConfig(**SIZES, **WIDE, attn_implementation="eager"),
    "mistral": transformers.MistralConfig(**SIZES, **WIDE, sliding_window=4),
    "gemma 3": transformers.Gemma3TextConfig(
        **SIZES, **WIDE, head_dim=8, sliding_window=4, layer_types=["sliding_attention"] * 2
    ),
    "gpt 2": transformers.GPT2Config(
        vocab_size=90, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "phi": transformers.PhiConfig(**SIZES, intermediate_size=48),
    "bloom": transformers.BloomConfig(vocab_size=90, hidden_size=32, n_layer=2, n_head=4),
    "mamba": transformers.MambaConfig(vocab_size=90, hidden_size=32, num_hidden_layers=2),
    "lfm 2": transformers.Lfm2Config(**SIZES, **WIDE, layer_types=["conv", "full_attention"]),
}
APART = {"llama", "eager", "mistral", "gemma 3", "gpt 2", "phi"}
"""Models that keep packed sequences apart."""


def make_model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[kind]).float().eval()
    for parameter in model.parameters():  # large enough that what leaks is seen
        if parameter.ndim == 2:
            parameter.data.mul_(4)
    return model


def make_batch() -> list[TokenSequence]:
    rng = np.random.default_rng(3)
    lengths = [(9, 7), (4, 3), (17, 5), (2, 1), (11, 10)]
    return [TokenSequence(tuple(map(int, rng.integers(3, 90, n))), start) for n, start in lengths]


def plain_gradients(model: torch.nn.Module, batch: list[TokenSequence]) -> tuple[float, dict]:
    padded = pad_sequences(batch)
    loss = model(
        input_ids=torch.from_numpy(padded.ids),
        attention_mask=torch.from_numpy(padded.mask),
        labels=torch.from_numpy(np.where(padded.answers, padded.ids, -100)),
    ).loss
    loss.backward()
    return loss.item(), take_gradients(model)


def take_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_those_of_plain_padding(kind) -> None:
    model, batch = make_model(kind), make_batch()
    make_rows = choose_rows(model, batch)
    assert (make_rows is pack_rows) == (kind in APART)
    loss, wanted = plain_gradients(model, batch)
    assert add_gradients(model, batch, make_rows) == pytest.approx(loss, rel=1e-5)
    found = take_gradients(model)
    assert {*found} == {*wanted}
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 2e-5 * gradient.norm() + 1e-7, name


def test_an_adapter_gets_the_gradients_of_plain_padding() -> None:
    model, batch = make_model("llama").double(), make_batch()
    for layer in kronq.torch.adapt_linears(model, AdapterShape("kron", 2, b_out=12)):
        torch.nn.init.normal_(layer.b1)
    loss, wanted = plain_gradients(model, batch)
    model.float()
    assert add_gradients(model, batch, pack_rows) == pytest.approx(loss, rel=1e-5)
    packed = take_gradients(model)
    _, padded = plain_gradients(model, batch)

    def error(found: dict[str, torch.Tensor]) -> float:
        return max(float((found[n] - wanted[n]).norm() / wanted[n].norm()) for n in wanted)

    assert error(packed) <= 2 * error(padded) < 5e-5  # float32's own, of this model


def test_a_large_batch_is_read_in_parts_of_similar_length(monkeypatch) -> None:
    lengths = [300, 40, 500, 600, 30, 200, 2, 7]
    parts = split_batch([TokenSequence((1,) * n, 1) for n in lengths])
    found = [[len(each.ids) for each in part] for part in parts]
    assert found == [[2, 7, 30, 40, 200], [300], [500], [600]]
    assert all(len(part) == 1 or sum(part) <= ROW_TOKENS for part in found)
    model, batch = make_model("llama"), make_batch()
    loss, wanted = plain_gradients(model, batch)
    monkeypatch.setattr("kronq.torch.training.rows.ROW_TOKENS", 16)
    assert len(split_batch(batch)) == 3
    assert add_gradients(model, batch, pack_rows) == pytest.approx(loss, rel=1e-5)
    for name, gradient in take_gradients(model).items():
        assert (gradient - wanted[name]).norm() <= 2e-5 * wanted[name].norm(), name


@pytest.mark.parametrize("make_rows", [pack_rows, pad_rows])
def test_the_model_reads_no_more_than_it_has_to(make_rows) -> None:
    """Padding is read only where rows are padded; the output embedding reads answers alone."""
    model, batch = make_model("llama"), make_batch()
    read, written = [], []
    model.get_input_embeddings().register_forward_hook(lambda *given: read.append(given[2].shape))
    model.get_output_embeddings().register_forward_hook(
        lambda *given: written.append(given[2].shape)
    )
    asked_logits(model, make_rows(batch))
    tokens, answers = sum(len(s.ids) for s in batch), sum(len(s.ids) - s.start for s in batch)
    assert read == [(1, tokens, 32) if make_rows is pack_rows else (5, 17, 32)]
    assert written == [(1, answers, 90)]
