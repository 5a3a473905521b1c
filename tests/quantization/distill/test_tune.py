"""Tuned codes against untuned ones of the same size, compared by torch alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import kronq
from kronq.calibration.batches import encode_examples, make_batches
from kronq.calibration.torch_model import answer_logits, attach, load_model, to_torch_batch
from kronq.errors import KronqError, MismatchError
from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.packed import pack_adapter
from kronq.quantization.distill import TuningSettings, tune

EXAMPLES = [Example(f"{i} and {i} make", (f" {2 * i}",)) for i in range(12)]
SIZE = 1700


def trained(family: str) -> Adapter:
    """Random factors on the tiny model's query and up projections."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, cols: int) -> Float:
        return Float((rng.normal(size=(rows, cols)) * 0.5).astype(np.float32))

    layers = {}
    for i in (0, 1):
        for part, rows in (("self_attn.q_proj", 64), ("mlp.up_proj", 96)):
            if family == "lora":
                a, b = ONE, Product(matrix(rows, 8), matrix(8, 64))
            else:
                a, b = Product(matrix(2, 2)), Product(matrix(rows // 2, 12), matrix(12, 32))
            layers[f"model.layers.{i}.{part}"] = Delta(a, b, 2.0, (rows, 64))
    return Adapter(layers)


def divergence(model_dir: Path, adapter: Adapter, other: Adapter) -> float:
    """KL(adapter ‖ other) per token of the answers."""
    model, tokenize = load_model(model_dir, device="cpu")
    (batch,) = make_batches(list(encode_examples(EXAMPLES, tokenize)), 10_000)
    logs = []
    for which in (adapter, other):
        with attach(model, which), torch.no_grad():
            logs.append(answer_logits(model, to_torch_batch(batch))[0].log_softmax(dim=-1))
    return float((logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["kron", "lora"])
def test_answers_are_closer_to_the_adapters_in_no_more_bytes(tiny_hf: Path, family: str) -> None:
    """Over several sizes, since 12 questions of a tiny model tell little at one."""
    adapter, tuned_kl, plain_kl = trained(family), 0.0, 0.0
    for size in (1600, 1700, 1800):
        tuned = tune(adapter, tiny_hf, EXAMPLES, size, TuningSettings(steps=180), device="cpu")
        assert 0.97 * size <= kronq.measure(adapter, tuned).total.bytes <= size
        tuned_kl += divergence(tiny_hf, adapter, tuned)
        plain_kl += divergence(tiny_hf, adapter, kronq.quantize(adapter, kronq.Compact(size=size)))
    assert tuned_kl < 0.6 * plain_kl


def test_the_same_seed_gives_the_same_file_and_it_reads_back(tiny_hf: Path, tmp_path: Path) -> None:
    adapter = trained("kron")
    settings = TuningSettings(steps=3)
    one, two = (tune(adapter, tiny_hf, EXAMPLES, SIZE, settings, device="cpu") for _ in range(2))
    assert pack_adapter(one) == pack_adapter(two)
    read = kronq.load(kronq.save(one, tmp_path / "a.safetensors"))
    assert read.recipe is not None
    assert read.recipe.method == "tuned"
    for name, delta in read.items():
        assert np.array_equal(delta.dense(), one[name].dense())


def test_progress_counts_steps(tiny_hf: Path) -> None:
    calls: list[tuple[int, int]] = []
    tune(
        trained("kron"),
        tiny_hf,
        EXAMPLES,
        SIZE,
        TuningSettings(steps=2),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 2), (2, 2)]


def test_what_cannot_be_tuned_is_refused(tiny_hf: Path, tmp_path: Path) -> None:
    adapter = trained("kron")
    strange = Adapter({"model.layers.9.self_attn.q_proj": next(iter(adapter.values()))})
    with pytest.raises(MismatchError, match=r"layers\.9"):
        tune(strange, tiny_hf, EXAMPLES, 1000)
    with pytest.raises(KronqError, match="does not fit"):
        tune(adapter, tiny_hf, EXAMPLES, 300)
    with pytest.raises(KronqError, match="config"):
        tune(adapter, tmp_path, EXAMPLES, SIZE)
