"""llama.cpp beside a model: its figures are there, and it computes what ONNX Runtime computes."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import xllamacpp  # noqa: F401  # without it this file is left out

from kronq import Session, export_onnx, save
from kronq.genai.bench.llama_cpp import LlamaCpp
from kronq.genai.logits import log_probabilities
from tests.cli.conftest import kronq
from tests.evaluate.tiny import tiny_adapter
from tests.llama_cpp import save_gguf

__all__ = ["kronq"]

FEW = ("--prompt-tokens", 8, "--new-tokens", 4, "--rounds", 2, "--threads", 1)


@pytest.fixture(scope="module")
def gguf(tiny_hf, tmp_path_factory):
    return save_gguf(tiny_hf, tmp_path_factory.mktemp("llama.cpp") / "tiny.gguf")


@pytest.fixture(scope="module")
def adapted(tiny_base, tmp_path_factory):
    """A folder with slots, and an adapter for them."""
    folder = tmp_path_factory.mktemp("slots")
    adapter = tiny_adapter()
    save(adapter, folder / "small.safetensors")
    export_onnx(adapter, tiny_base, folder / "app", form="slots", verify=False)
    return folder / "app", folder / "small.safetensors"


@pytest.mark.slow
def test_llama_cpp_takes_its_turns(kronq, adapted, gguf):
    folder, adapter = adapted
    ask = ("bench", folder, "--adapter", adapter, "--llama-cpp", gguf, *FEW)
    found = kronq(*ask, "--json").json()["llama_cpp"]
    for variant in ("with_adapter", "without"):
        assert all(each["n"] == 2 and each["median"] > 0 for each in found[variant].values())
    assert found["decode_ratio"]["median"] > 0 < found["prefill_ratio"]["median"]
    assert "xllamacpp" in found["program"]
    assert "its time ÷ ours" in kronq(*ask).out


def test_llama_cpp_computes_the_same_model(gguf, tiny_base):
    tokens = np.random.default_rng(0).integers(3, 258, 24).tolist()
    found = LlamaCpp(gguf, tokens=32, threads=1).log_probabilities(tokens, 258)
    expected = log_probabilities(Session(tiny_base).logits(tokens)[0])
    told = ~np.isnan(found).any(axis=1)  # half of these tokens are no whole characters
    assert told.sum() > 4
    np.testing.assert_allclose(found[told], expected[told], atol=0.01)


def test_refusals(kronq, adapted, gguf, tmp_path, monkeypatch):
    folder, adapter = adapted

    def refused(file, *more):
        return kronq.refuses("bench", folder, "--llama-cpp", file, *more, *FEW)

    assert "give --adapter" in refused(gguf, "--base", folder)
    assert "a .gguf file" in refused(adapter, "--adapter", adapter)
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(gguf.read_bytes()[:5000])
    assert "damaged.gguf" in refused(damaged, "--adapter", adapter)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else there(name)
    )
    missing = refused(gguf, "--adapter", adapter)
    assert "no xllamacpp" in missing
    assert "kronq[llama-cpp]" in missing
