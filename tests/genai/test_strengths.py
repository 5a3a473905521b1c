"""Adapters with a strength, and several added up, in a session and on the command line."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq import Session
from kronq.cli.adapter_sums import adapter_sums
from kronq.errors import ArgumentError, KronqError, UnsupportedError
from kronq.model.adapter import Adapter, Origin
from kronq.onnx.forms import Slots
from tests.adapters import kron, lora
from tests.cli.command import Kronq

pytest.importorskip("onnxruntime_genai")

IDS = [[5, 40, 41, 42]]


def adapter(seed: int, make=kron, **shape) -> Adapter:
    rng = np.random.default_rng(seed)
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
    layers = {name: replace(make(rng, **shape), scale=0.1) for name in names}
    return Adapter(layers, Origin("memory"))


@pytest.fixture(scope="module")
def files(tiny_base, tmp_path_factory, kernel):
    folder = tmp_path_factory.mktemp("strengths")
    one = adapter(1, a=(4, 4), b=(16, 16), rank=4)
    two = adapter(2, make=lora, rows=64, cols=64, rank=3)
    kronq.export_onnx(one, tiny_base, folder / "app", form=Slots(compiled=kernel), verify=False)
    for name, each in (("one", one), ("two", two)):
        kronq.save(kronq.quantize(each, bits=8), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(autouse=True)
def home(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    return files


@pytest.fixture
def kronq_verb(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


def merged_logits(tiny_base: Path, tmp_path: Path, strengths: dict[str, float]) -> np.ndarray:
    """Logits of a base whose weights have the sum in them, multiplied out."""
    total: dict[str, np.ndarray] = {}
    for path, strength in strengths.items():
        for name, delta in kronq.load(path).items():
            total[name] = total.get(name, 0) + strength * delta.dense().astype(np.float64)
    from kronq.model.delta import ONE, Delta, Product
    from kronq.model.matrix import Float

    layers = {
        name: Delta.uncropped(
            ONE, Product(Float(dense.astype(np.float32)), Float(np.eye(64, dtype=np.float32))), 1.0
        )
        for name, dense in total.items()
    }
    kronq.export_onnx(Adapter(layers), tiny_base, tmp_path / "merged", "merged", verify=False)
    return Session(tmp_path / "merged").logits(IDS)


@pytest.mark.parametrize(
    "strengths",
    [
        {"one.safetensors": 0.7},
        {"two.safetensors": -1.5},
        {"one.safetensors": 0.7, "two.safetensors": 0.3},
    ],
    ids=["kron", "lora", "both"],
)
def test_logits_are_those_of_the_weights_with_the_sum_in_them(tiny_base, tmp_path, strengths):
    session = Session("app", {"sum": strengths})
    found = session.logits(IDS, adapter="sum")
    np.testing.assert_allclose(found, merged_logits(tiny_base, tmp_path, strengths), atol=3e-5)
    assert abs(found - session.logits(IDS)).max() > 1e-2


def test_strength_of_one_adapter_and_of_a_sum():
    session = Session("app", {"plain": "one.safetensors", "whole": {"one.safetensors": 1}})
    session.load("half", "one.safetensors", strength=0.5)
    session.load("both", {"one.safetensors": 1, "two.safetensors": 2}, strength=0.5)
    session.load("same", {"one.safetensors": 0.5, "two.safetensors": 1.0})
    session.load("none", "one.safetensors", strength=0)
    logits = {name: session.logits(IDS, adapter=name) for name in session.adapters}
    np.testing.assert_array_equal(logits["both"], logits["same"])
    np.testing.assert_array_equal(logits["plain"], logits["whole"])
    np.testing.assert_array_equal(logits["none"], session.logits(IDS))
    assert abs(logits["half"] - logits["plain"]).max() > 1e-3
    assert abs(logits["half"] - logits["both"]).max() > 1e-3


def test_an_adapter_in_memory_runs_as_its_file_does(tmp_path):
    trained = adapter(1, a=(4, 4), b=(16, 16), rank=4)
    for config in (kronq.Native(bits=8), kronq.Compact(size=700)):
        made = kronq.quantize(trained, config)
        path = kronq.save(made, tmp_path / f"{config.method}.safetensors")
        session = Session("app", {"file": path, "memory": made})
        session.load("scaled file", path, strength=3)
        session.load("scaled", made, strength=3)
        for one, other in (("file", "memory"), ("scaled file", "scaled")):
            np.testing.assert_array_equal(*(session.logits(IDS, adapter=n) for n in (one, other)))
            texts = [session.generate("abc", adapter=n, max_tokens=8).text for n in (one, other)]
            assert texts[0] == texts[1]
        assert texts[0] != session.generate("abc", max_tokens=8).text
        session.unload("memory")
        session.load("memory", trained)


def test_a_state_dict_in_memory_runs_without_a_file():
    rng = np.random.default_rng(3)
    names = [f"base_model.model.model.layers.{i}.self_attn.q_proj" for i in range(2)]
    tensors = {f"{n}.lora_{part}.weight": rng.normal(size=shape).astype(np.float32) / 4
               for n in names for part, shape in (("A", (3, 64)), ("B", (64, 3)))}  # fmt: skip
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6}
    made = kronq.Adapter.from_state_dict(tensors, config)
    session = Session("app", {"memory": made})
    assert abs(session.logits(IDS, adapter="memory") - session.logits(IDS)).max() > 1e-2
    foreign = adapter(2, make=lora, rows=32, cols=64)
    with pytest.raises(kronq.MismatchError):
        session.load("foreign", foreign)


def test_what_has_no_strength_is_refused():
    session = Session("app")
    file = session.load("one", "one.safetensors").file
    with pytest.raises(UnsupportedError, match=r"an \.onnx_adapter has no strength"):
        session.load("a", file, strength=0.5)
    session.load("b", {file: 1})
    for strength in (float("nan"), "1", None):
        with pytest.raises(ArgumentError, match="strength"):
            session.load("c", "one.safetensors", strength=strength)
        with pytest.raises(ArgumentError, match="strength"):
            session.load("c", {"one.safetensors": strength})
    with pytest.raises(ArgumentError, match="no adapters to add up"):
        session.load("c", {})
    with pytest.raises(KronqError, match="no such file"):
        session.load("c", {"one.safetensors": 1, "nowhere": 1})


def text(kronq_verb: Kronq, *adapters: str) -> str:
    result = kronq_verb("run", "app", "--prompt", "abc", "--max-tokens", 8, *adapters)
    assert result.code == 0, result.err
    return result.out


def test_run_adds_up_what_it_is_given(kronq_verb):
    session = Session("app", {"sum": {"one.safetensors": 3, "two.safetensors": -2}})
    wanted = session.generate("abc", adapter="sum", max_tokens=8).text + "\n"
    one, two = "one.safetensors", "two.safetensors"
    assert text(kronq_verb, "--adapter", f"{one}@3", "--adapter", f"{two}@-2") == wanted
    assert text(kronq_verb, "--adapter", one, "--adapter", f"{two}@-2", "--strength", "3") == wanted
    assert text(kronq_verb, "--adapter", one, "--strength", "0") == text(kronq_verb)
    assert text(kronq_verb) != wanted


def test_chat_adds_up_those_of_one_name(kronq_verb, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("/adapter two\n"))
    given = ["both=one.safetensors@3", "both=two.safetensors@-2", "two.safetensors"]
    arguments = [part for each in given for part in ("--adapter", each)]
    result = kronq_verb("chat", "app", *arguments)
    assert result.code == 0
    lines = ["adapter: both (of both, none, two)", "adapter: two (of both, none, two)"]
    assert result.err.splitlines() == lines


@pytest.mark.parametrize(
    ("adapters", "told"),
    [
        (["nowhere@0.5"], "nowhere: no such file or folder"),
        (["one.safetensors@strong"], "one.safetensors@strong: no such file"),
        (["one.safetensors@inf"], "bad strength; found 'inf'"),
        (["one.safetensors", "one.safetensors"], "two adapters of one name; found one"),
        (["a=one.safetensors", "b=one.safetensors"], "the same adapter is given twice"),
    ],
)
def test_mistakes_are_named(kronq_verb, adapters, told):
    arguments = [part for each in adapters for part in ("--adapter", each)]
    assert told in kronq_verb.refuses("run", "app", "--prompt", "a", *arguments)


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("hf://me/arc", "hf://me/arc", 1),
        ("hf://me/arc@0.7", "hf://me/arc@0.7", 1),  # a revision
        ("hf://me/arc@main@0.7", "hf://me/arc@main", 0.7),
        ("hf://me/arc/a.safetensors@0.7", "hf://me/arc/a.safetensors", 0.7),
    ],
)
def test_strengths_of_adapters_on_the_hub(text, path, strength):
    pytest.importorskip("huggingface_hub")
    assert adapter_sums([f"a={text}"], 1) == {"a": {path: strength}}
