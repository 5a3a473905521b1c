"""Sums of adapters, beside PEFT's own and beside matrices multiplied out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import ArgumentError, MismatchError, UnsupportedError
from kronq.model import exact_lora
from kronq.model.adapter import Adapter, Origin
from tests.adapters import kron, lora

A, B, C = "layers.9.q", "layers.10.q", "layers.10.v"


def adapter(seed: int, *, make=kron, names: tuple[str, ...] = (A, B), **shape) -> Adapter:
    rng = np.random.default_rng(seed)
    return Adapter({name: make(rng, **shape) for name in names}, Origin("memory", base_model="b"))


KRON = adapter(0, a=(4, 2), b=(6, 10), rank=3)
OTHER = adapter(1, names=(B, C), a=(2, 4), b=(12, 5), rank=2)
LORA = adapter(2, make=lora, rows=24, cols=20, rank=5)


@pytest.mark.parametrize("strengths", [(1, 1), (0.7, 0.3), (-2, 0.5), (0, 1), (0, 0)])
@pytest.mark.parametrize(
    "pair", [(KRON, OTHER), (LORA, KRON), (LORA, LORA)], ids=["kk", "lk", "ll"]
)
def test_the_sum_is_that_of_the_matrices(pair, strengths) -> None:
    found = kronq.weighted_sum(list(zip(pair, strengths, strict=True)))
    names = [name for name in (A, B, C) if any(name in each for each in pair)]
    assert list(found) == names  # 9 before 10
    for name in names:
        wanted = sum(
            strength * each[name].dense().astype(np.float64)
            for each, strength in zip(pair, strengths, strict=True)
            if name in each
        )
        np.testing.assert_allclose(found[name].dense(), wanted, atol=3e-6)
    assert found.origin.base_model == "b"


def test_a_layer_of_one_adapter_keeps_its_factors() -> None:
    found = kronq.weighted_sum([(KRON, 0.5), (OTHER, 2)])
    assert found[A].a.shape == (4, 2)
    assert found[A].scale == KRON[A].scale / 2
    assert found[B].rank == 2 * 3 + 2 * 2  # rank(A) · r each


@pytest.mark.parametrize("bits", [4, 2])
def test_one_adapter_keeps_its_codes(bits: int) -> None:
    quantized = kronq.quantize(KRON, bits=bits)
    found = kronq.weighted_sum([(quantized, 0.25)])
    assert [m.dtype for m in found[A].matrices] == [m.dtype for m in quantized[A].matrices]
    np.testing.assert_allclose(found[A].dense(), quantized[A].dense() / 4, rtol=1e-6)
    assert kronq.weighted_sum([(quantized, 1)]) is quantized


@pytest.mark.parametrize("method", ["native", "compact"])
def test_a_sum_of_quantized_adapters_can_be_quantized(method: str, tmp_path: Path) -> None:
    config = kronq.Native(bits=4) if method == "native" else kronq.Compact(bpw=6)
    names = tuple(f"layers.{i}.q" for i in range(40))  # larger than a file's header
    trained = [adapter(seed, names=names, a=(4, 4), b=(24, 20), rank=4) for seed in (5, 6)]
    pair = [kronq.quantize(each, config) for each in trained]
    total = kronq.weighted_sum([(each, 0.5) for each in pair])
    again = kronq.load(kronq.save(kronq.quantize(total, bits=8), tmp_path / "a.safetensors"))
    for name in total:
        wanted = sum(0.5 * each[name].dense() for each in pair if name in each)
        error = np.linalg.norm(again[name].dense() - wanted) / np.linalg.norm(wanted)
        assert error < 0.02


def test_raw_factors_are_cropped_before_they_add_up() -> None:
    raw = adapter(3, a=(4, 2), b=(6, 10), rank=3)
    raw = Adapter(raw.layers, Origin("factors", cropped_by_base=True))
    found = kronq.weighted_sum([(raw, 1), (raw, 1)], shapes={A: (22, 19), B: (24, 20)})
    np.testing.assert_allclose(found[A].dense(), 2 * raw[A].dense()[:22, :19], atol=1e-6)


def test_what_does_not_add_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wider = adapter(4, names=(B,), a=(4, 2), b=(6, 11), rank=3)
    with pytest.raises(MismatchError, match=r"layers\.10\.q: .*found 24×20 and 24×22"):
        kronq.weighted_sum([(KRON, 1), (wider, 1)])
    with pytest.raises(ArgumentError, match="no adapters"):
        kronq.weighted_sum([])
    for strength in (float("nan"), float("inf"), "1", True, None):
        with pytest.raises(ArgumentError, match="strength"):
            kronq.weighted_sum([(KRON, strength)])
    monkeypatch.setattr(exact_lora, "LARGEST", 1000)
    with pytest.raises(UnsupportedError, match="exact LoRA would be huge"):
        kronq.weighted_sum([(KRON, 1), (OTHER, 1)])


@pytest.mark.parametrize("families", [("lora", "lora"), ("lokr", "lokr"), ("lora", "lokr")])
def test_logits_are_those_of_peft(families: tuple[str, str], tmp_path: Path) -> None:
    """PEFT adds LoRAs by "cat"; it runs two LoKrs at once, each with a scale of its own."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from tests import tiny

    strengths = (0.7, -0.4)
    paths, deltas = [], []
    for i, family in enumerate(families):
        paths.append(tmp_path / str(i))
        kind = peft.LoraConfig if family == "lora" else peft.LoKrConfig
        settings = {"lora_alpha": 6} if family == "lora" else {"alpha": 6}
        config = kind(r=3 + i, target_modules=["q_proj", "down_proj"], **settings)
        model = peft.get_peft_model(tiny.llama(), config)
        torch.manual_seed(i)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or "lokr_" in name:
                    parameter.copy_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(paths[-1])
        deltas.append(tiny.peft_deltas(model))
    total = kronq.weighted_sum(
        [(kronq.load(path), s) for path, s in zip(paths, strengths, strict=True)]
    )
    kronq.convert(total, tmp_path / "sum", to="lora")
    found = tiny.logits(peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / "sum"))
    if families == ("lora", "lora"):
        both = peft.PeftModel.from_pretrained(tiny.llama(), paths[0], adapter_name="a")
        both.load_adapter(paths[1], "b")
        both.add_weighted_adapter(["a", "b"], list(strengths), "c", combination_type="cat")
        both.set_adapter("c")
    else:
        both = tiny.llama()
        with torch.no_grad():
            for weighed, strength in zip(deltas, strengths, strict=True):
                for name, delta in weighed.items():
                    both.get_submodule(name).weight += strength * torch.from_numpy(delta)
    wanted = tiny.logits(both)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * abs(wanted).max())
    assert abs(wanted - tiny.logits(tiny.llama())).max() > 0.1 * abs(wanted).max()
