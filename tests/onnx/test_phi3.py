"""What reads a base takes a Phi-3's adapters: scores, calibration, files that are swapped in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest

from kronq import load, quantize, save
from kronq.calibration.input_moments import calibrate
from kronq.evaluate.task_model import TaskModel
from kronq.genai.session import Session
from kronq.io.examples import Example
from tests.adapters import difference
from tests.calibration.torch_inputs import inputs_of
from tests.cli.command import Kronq
from tests.onnx import bases

pytest.importorskip("onnxruntime_genai")

IDS = bases.TOKENS
PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
NAMES = {"qkv_proj": "query_key_value", "gate_up_proj": "dense_h_to_4h"}
TEXTS = [[5, 17, 42, 100, 7], [230, 64, 31]]


@pytest.fixture
def kronq(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture(scope="module", params=["lokr", "lora"])
def trained(request, phi3_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = bases.language_model(phi3_hf)
    return bases.peft_adapter(kind, request.param, tmp_path_factory.mktemp("peft") / "adapter")


@pytest.fixture(scope="module")
def wanted(phi3_hf: Path, trained: Path) -> np.ndarray:
    """PEFT's logits."""
    kind = bases.language_model(phi3_hf)
    return kind.run(peft.PeftModel.from_pretrained(kind.load(), trained).eval())


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(found - wanted).max() <= 5e-5 * np.abs(wanted).max())


def test_scores_are_of_pefts_logits(phi3_bases: Path, trained: Path, wanted: np.ndarray) -> None:
    model = TaskModel(phi3_bases / "fp32", device="cpu")
    model.use(load(trained))
    assert close(model.predict(IDS, np.ones_like(IDS), np.arange(IDS.size)), wanted[0])


def test_moments_are_of_the_fused_layers_inputs(
    tmp_path: Path, phi3_hf: Path, phi3_bases: Path, trained: Path
) -> None:
    model, adapter = bases.language_model(phi3_hf).load(), load(trained)
    examples = [Example("", (" ".join(map(str, text)),)) for text in TEXTS]

    def tokenize(text: str) -> list[int]:
        return [*map(int, text.split())]

    found = calibrate(adapter, phi3_bases / "fp32", examples, tokenize=tokenize, cache=tmp_path)
    assert {*found.layers} == {*adapter}
    for name, inputs in inputs_of(model, [*adapter], TEXTS).items():
        assert difference(found[name].inputs, inputs) < 1e-5


@pytest.mark.parametrize("how", ["fp32", "fp32 fused"])
def test_a_converted_file_is_swapped_in(
    tmp_path: Path, kronq: Kronq, phi3_bases: Path, trained: Path, wanted: np.ndarray, how: str
) -> None:
    app, file = tmp_path / "app", tmp_path / "small.onnx_adapter"
    kronq("export", trained, "--base", phi3_bases / how, "--form", "slots", "-o", app)
    kronq("convert", trained, "--to", "onnx_adapter", "--model", app, "-o", file)
    session = Session(app, {"file": file, "folder": trained}, device="cpu")
    before = Session(phi3_bases / how, device="cpu").logits(IDS)
    assert np.array_equal(session.logits(IDS), before)
    for name in ("file", "folder"):
        assert close(session.logits(IDS, adapter=name), wanted)
    found = session.generate("ab", adapter="file", max_tokens=4, temperature=0).tokens
    assert found == session.generate("ab", adapter="folder", max_tokens=4, temperature=0).tokens


def test_a_map_of_a_layer_to_its_parts(
    tmp_path: Path, kronq: Kronq, phi3_bases: Path, trained: Path, wanted: np.ndarray
) -> None:
    """Layers of names that no rule knows, such as ChatGLM's."""
    adapter, layers, mapping = load(trained), {}, {}
    for name, delta in adapter.items():
        block, layer = name.rsplit(".", 1)
        own = f"{block}.{NAMES.get(layer, layer)}"
        layers[own] = delta
        if layer in PARTS:
            place = "/" + block.replace(".", "/").replace("layers/", "layers.")
            place = place.replace("self_attn", "attn")
            mapping[own] = [f"{place}/{part}/MatMul" for part in PARTS[layer]]
    renamed = tmp_path / "renamed.safetensors"
    save(quantize(replace(adapter, layers=layers), bits=16), renamed)
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    base, out = phi3_bases / "fp32", tmp_path / "out"
    options = ("export", renamed, "--base", base, "--form", "merged", "-o", out)
    assert "a list of places" in kronq.refuses(*options)
    result = kronq(*options, "--map", tmp_path / "map.json", "--json")
    assert result.json()["matched"] == {"name": 4, "map": 4}
    assert difference(Session(out, device="cpu").logits(IDS), wanted) < 1e-2
    mapping[own][-1] = f"{place}/o_proj/MatMul"
    (tmp_path / "wrong.json").write_text(json.dumps(mapping))
    wrong = kronq.refuses(*options, "--map", tmp_path / "wrong.json", "--force")
    assert "do not read one input" in wrong
