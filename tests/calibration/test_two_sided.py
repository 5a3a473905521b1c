"""Two-sided moments equal those of PEFT's model with plain autograd, and the Fisher information."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from kronq.calibration import accumulate, two_sided
from kronq.calibration.batches import TokenSequence, sample_sequences
from kronq.calibration.two_sided import calibrate_two_sided
from kronq.errors import MismatchError
from kronq.io.examples import Example
from kronq.model.adapter import Adapter
from kronq.readers.load import load
from tests import tiny
from tests.adapters import difference

CONFIG = peft.LoKrConfig(
    r=4, alpha=8, decompose_factor=4, target_modules=[*tiny.LINEARS, "lm_head"]
)
EXAMPLES = [Example("two and two is", (" five", " four"), 1), Example("", ("plain text",))]
LAYERS = [
    f"model.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn.q_proj", "mlp.up_proj")
]


def tokenize(text: str) -> list[int]:
    return [ord(letter) % 50 for letter in text]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Adapter, Any]:
    """An adapter, and the same in PEFT; calibration finds tests.tiny.llama under any path."""
    reference = tiny.save_peft(CONFIG, tmp_path / "adapter")
    model = tiny.llama().requires_grad_(False)
    monkeypatch.setattr(two_sided, "load_model", lambda *_, **__: (model, tokenize))
    (tmp_path / "config.json").touch()
    return load(tmp_path / "adapter"), reference


def explicit(
    model: Any, layer: str, sequence: TokenSequence, labels: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [tokens, d_in] and gradients [tokens, d_out] of one layer, of one sequence."""
    captured: dict[str, torch.Tensor] = {}

    def hook(_: Any, args: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        captured.update(x=args[0], y=output)

    module = model.get_submodule(f"base_model.model.{layer}")
    handle = module.register_forward_hook(hook)
    ids = torch.tensor([sequence.ids])
    logits = model(ids).logits[0, sequence.start - 1 : -1]
    truth = ids[0, sequence.start :] if labels is None else labels
    torch.nn.functional.cross_entropy(logits, truth, reduction="sum").backward()
    handle.remove()
    return captured["x"][0].detach().numpy(), captured["y"].grad[0].numpy()


def test_moments_are_those_of_peft_and_autograd(
    trained: tuple[Adapter, Any], tmp_path: Path
) -> None:
    adapter, reference = trained
    found = calibrate_two_sided(
        adapter, tmp_path, EXAMPLES, label_seed=None, cache=tmp_path / "cache"
    )
    assert found.two_sided
    sequences = sample_sequences(EXAMPLES, tokenize)
    for layer in LAYERS:
        pairs = [explicit(reference, layer, sequence) for sequence in sequences]
        x, g = (np.concatenate(parts).astype(np.float64) for parts in zip(*pairs, strict=True))
        assert found.tokens == len(x)
        m, grad = weighted(x, g)
        assert difference(found[layer].inputs, m) < 1e-3
        assert difference(found[layer].outputs, grad) < 1e-3


def weighted(x: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M and G by definition, position by position."""
    m = sum((b @ b) * np.outer(a, a) for a, b in zip(x, g, strict=True)) / len(x)
    grad = sum((a @ a) * np.outer(b, b) for a, b in zip(x, g, strict=True)) / len(x)
    return m, grad / np.trace(grad)


def test_an_error_alike_in_all_outputs_is_measured_exactly(
    trained: tuple[Adapter, Any], tmp_path: Path
) -> None:
    """Over errors u·vᵀ with every unit vector u: the mean of (gᵀ·u·vᵀ·x)² is no approximation."""
    adapter, reference = trained
    found = calibrate_two_sided(
        adapter, tmp_path, EXAMPLES, label_seed=None, cache=tmp_path / "cache"
    )
    layer = "model.layers.0.mlp.up_proj"
    pairs = [
        explicit(reference, layer, sequence) for sequence in sample_sequences(EXAMPLES, tokenize)
    ]
    x, g = (np.concatenate(parts).astype(np.float64) for parts in zip(*pairs, strict=True))
    v = np.random.default_rng(0).normal(size=x.shape[1])
    moment = found[layer]
    judged = np.trace(moment.outputs) * (v @ moment.inputs @ v)
    assert judged == pytest.approx(np.mean(((x @ v)[:, None] * g) ** 2) * g.shape[1], rel=1e-3)


def test_labels_of_the_model_give_the_fisher_information(
    trained: tuple[Adapter, Any], tmp_path: Path
) -> None:
    """Every label of the vocabulary by its probability, against a thousand draws."""
    adapter, reference = trained
    example = Example("two and two is", ("4",))
    (sequence,) = sample_sequences([example], tokenize)
    with torch.no_grad():
        p = reference(torch.tensor([sequence.ids])).logits[0, -2].softmax(0)
    layer = "model.layers.1.mlp.up_proj"
    m, grad = 0.0, 0.0
    for token, likely in enumerate(p.tolist()):
        x, g = explicit(reference, layer, sequence, torch.tensor([token]))
        m = m + likely * (x.T * (g * g).sum(1)) @ x / len(x)
        grad = grad + likely * (g.T * (x * x).sum(1)) @ g / len(g)
    found = calibrate_two_sided(adapter, tmp_path, [example] * 1000, cache=tmp_path / "cache")[
        layer
    ]
    data = calibrate_two_sided(
        adapter, tmp_path, [example], label_seed=None, cache=tmp_path / "cache"
    )[layer]
    for exact, drawn, true in (
        (m, found.inputs, data.inputs),
        (grad / np.trace(grad), found.outputs, data.outputs),
    ):
        assert np.linalg.norm(drawn - exact) < 0.15 * np.linalg.norm(exact)
        assert np.linalg.norm(true - exact) > 0.2 * np.linalg.norm(exact)


def test_passes_sample_equal_labels(
    trained: tuple[Adapter, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, _ = trained
    one = calibrate_two_sided(adapter, tmp_path, EXAMPLES, cache=tmp_path / "one")
    monkeypatch.setattr(accumulate, "MEMORY", 30_000)
    many = calibrate_two_sided(adapter, tmp_path, EXAMPLES, cache=tmp_path / "many")
    other = calibrate_two_sided(adapter, tmp_path, EXAMPLES, cache=tmp_path / "one", label_seed=1)
    for layer in LAYERS:
        assert np.array_equal(one[layer].outputs, many[layer].outputs)
        assert not np.array_equal(one[layer].outputs, other[layer].outputs)


def test_another_adapter_has_moments_of_its_own(
    trained: tuple[Adapter, Any], tmp_path: Path
) -> None:
    adapter, _ = trained
    part = Adapter({name: adapter[name] for name in LAYERS})
    whole = calibrate_two_sided(adapter, tmp_path, EXAMPLES, cache=tmp_path / "cache")
    alone = calibrate_two_sided(part, tmp_path, EXAMPLES, cache=tmp_path / "cache")
    assert not np.array_equal(whole[LAYERS[-1]].inputs, alone[LAYERS[-1]].inputs)


def test_refusals(trained: tuple[Adapter, Any], tmp_path: Path) -> None:
    adapter, _ = trained
    strange = Adapter({"lm_tail": adapter[LAYERS[0]]})
    with pytest.raises(MismatchError, match="lm_tail"):
        calibrate_two_sided(strange, tmp_path, EXAMPLES, cache=tmp_path)
