"""NaN and infinity are refused, by layer, wherever an adapter's numbers leave kronq."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kronq
from kronq.calibration.two_sided import calibrate_two_sided
from kronq.errors import FormatError
from kronq.evaluate.task_model import TaskModel
from kronq.model.adapter import Adapter, check_finite
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter

LAYER = "model.layers.1.self_attn.v_proj"
MESSAGE = f"{LAYER}: the layer has values that are not finite"


@pytest.fixture(scope="module")
def slots(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slots") / "model"
    kronq.export_onnx(tiny_adapter("lora"), tiny_base, out, "slots", verify=False)
    return out


@pytest.fixture(params=[np.nan, np.inf], ids=str)
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A PEFT folder with one number that is not finite."""
    folder = kronq.convert(tiny_adapter("lora"), tmp_path / "broken", to="peft")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if LAYER in name)
    tensors[name] = tensors[name].copy()
    tensors[name][1, 2] = request.param
    save_file(tensors, file, {"format": "pt"})
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "q.jsonl"
    rows = [{"question": f"q{i}?", "choices": ["a", "b"], "answer": i % 2} for i in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_every_verb_refuses_them(
    tmp_path: Path,
    tiny_base: Path,
    slots: Path,
    broken: Path,
    questions: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    kronq, out = Kronq(capsys), tmp_path / "out.safetensors"
    verbs: list[list[object]] = [
        ["quantize", broken, "-o", out, *method]
        for method in (["--bits", 4], ["--bpw", 3], ["--method", "rtn", "--bits", 4])
    ]
    verbs.append(["quantize", broken, "-o", out, "--bits", 16])
    verbs += [["convert", broken, "-o", out, "--to", to] for to in ("peft", "lora")]
    adapter_file = tmp_path / "out.onnx_adapter"
    verbs.append(["convert", broken, "-o", adapter_file, "--to", "onnx_adapter", "--model", slots])
    verbs += [
        ["export", broken, "--base", tiny_base, "-o", out, "--form", form, *more]
        for form in ("branch", "merged", "slots")
        for more in ([], ["--no-verify"])
    ]
    verbs.append(["run", slots, "--adapter", broken, "--prompt", "hello", "--max-tokens", 4])
    verbs.append(["bench", slots, "--adapter", broken])
    verbs.append(["score", broken, "--base", tiny_base, "--tasks", questions])
    verbs.append(["compare", broken])
    for verb in verbs:
        assert MESSAGE in kronq.refuses(*verb), verb
    assert not out.exists()
    assert not adapter_file.exists()


def test_python_refuses_them(
    tmp_path: Path,
    tiny_base: Path,
    slots: Path,
    broken: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    adapter, good = kronq.load(broken), tiny_adapter("lora")
    calls: list[Callable[[], object]] = [
        lambda: kronq.Session(slots, {"x": broken}),
        lambda: slot_inputs(adapter, SlotSpec.read(slots)),
        lambda: TaskModel(tiny_base, device="cpu").use(adapter),
        lambda: kronq.save(adapter, tmp_path / "out.safetensors"),
        lambda: kronq.measure(adapter, adapter),
        lambda: kronq.measure(good, adapter),
        lambda: kronq.gaussian_bound(adapter),
        lambda: calibrate_two_sided(adapter, tmp_path, "text"),
    ]
    for call in calls:
        with pytest.raises(FormatError, match=r"broken.*v_proj: .*not finite"):
            call()
    assert not (tmp_path / "out.safetensors").exists()


def test_a_scale_or_the_scales_of_codes_are_numbers_too() -> None:
    adapter = kronq.quantize(tiny_adapter(), bits=8)
    check_finite(adapter)
    check_finite(kronq.quantize(tiny_adapter(), kronq.Compact(bpw=6)))
    delta = adapter[LAYER]
    bad_codes = replace(delta.b.left, scale=np.full_like(delta.b.left.scale, np.inf))  # type: ignore[type-var, union-attr]
    for bad in (
        replace(delta, scale=float("nan")),
        replace(delta, b=replace(delta.b, left=bad_codes)),
    ):
        with pytest.raises(FormatError, match=MESSAGE):
            check_finite(Adapter({**adapter, LAYER: bad}))
