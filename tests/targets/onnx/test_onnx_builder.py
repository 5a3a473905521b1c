"""onnxruntime-genai's builder: float32, float16 and int4; q, k and v apart and in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from kronq.adapter import Adapter
from kronq.targets.onnx import export_onnx
from tests.targets.onnx import tiny_onnx as tiny
from tests.targets.onnx.test_onnx_positions import SHAPES

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")

LAYERS = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in SHAPES.items()}
IDS = np.array([[5, 17, 42, 100, 7]])
BASES = [f"{precision}{fused}" for precision in ("fp16", "int4") for fused in ("", "-fused")]
BASES = ["fp32-fused", *BASES]

# One process for all of them: importing takes most of the time.
BUILD = """
import sys
from onnxruntime_genai.models.builder import create_model, parse_extra_options
hf, out, *names = sys.argv[1:]
for name in names:
    precision, _, fused = name.partition("-")
    place = (precision, "cuda" if precision == "fp16" else "cpu", f"{out}/cache")
    told = ["hf_token=false", f"fuse_qkv={bool(fused)}".lower()]
    told += ["accuracy_level=0"] if precision == "int4" else []
    options = parse_extra_options("", hf, f"{out}/{name}", *place, told)
    create_model("", hf, f"{out}/{name}", *place, **options)
"""


@pytest.fixture(scope="module")
def bases(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-P", "-c", BUILD, str(tiny_hf), str(out), *BASES]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=os.environ | offline)
    return out


def logits(model: Path) -> np.ndarray:
    session = ort.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds: dict[str, np.ndarray] = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    for entry in session.get_inputs():
        if entry.name.startswith("past"):
            kind = np.float16 if "float16" in entry.type else np.float32
            feeds[entry.name] = np.zeros((1, entry.shape[1], 0, 16), dtype=kind)
    return session.run(["logits"], feeds)[0].astype(np.float32)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return tiny.adapter("kron", layers=LAYERS)


@pytest.fixture(scope="module")
def wanted(tiny_hf: Path, adapter: Adapter) -> np.ndarray:
    """torch's own forward of W + ΔW."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    with torch.no_grad():
        for name, delta in adapter.items():
            model.get_submodule(name).weight += torch.from_numpy(delta.dense())
        return model(input_ids=torch.from_numpy(IDS)).logits.numpy()


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", BASES)
def test_slots(tmp_path: Path, bases: Path, adapter: Adapter, name: str) -> None:
    """Empty ones change nothing; filled ones are checked against the other forms."""
    report = export_onnx(adapter, bases / name, tmp_path / "out", form="slots")
    assert len(report.layers) == 14
    assert report.verification.effect > 0.1
    assert apart(logits(tmp_path / "out"), logits(bases / name)) < 1e-6


@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("name", ["fp32-fused", "fp16", "fp16-fused"])
def test_float_bases(
    tmp_path: Path, bases: Path, adapter: Adapter, wanted: np.ndarray, name: str, form: str
) -> None:
    report = export_onnx(adapter, bases / name, tmp_path / "out", form=form)
    assert len(report.layers) == 14
    assert report.matched == {"name": 14}
    assert apart(logits(bases / name), wanted) > 0.1
    assert apart(logits(tmp_path / "out"), wanted) < (1e-4 if name == "fp32-fused" else 2e-2)
    if form == "merged":
        assert report.delta_kept > 0.999


@pytest.mark.parametrize("name", ["int4", "int4-fused"])
def test_int4_bases(tmp_path: Path, bases: Path, adapter: Adapter, name: str) -> None:
    """The branch on 4-bit weights is what float weights of the same values would be."""
    from tests.targets.onnx.dequantized import dequantized

    report = export_onnx(adapter, bases / name, tmp_path / "out", form="branch")
    assert report.matched == {"name": 14}
    dequantized(bases / name / "model.onnx", tmp_path / "float" / "model.onnx")
    assert apart(logits(tmp_path / "float"), logits(bases / name)) < 1e-4
    export_onnx(adapter, tmp_path / "float", tmp_path / "merged", form="merged", verify=False)
    assert apart(logits(tmp_path / "out"), logits(tmp_path / "merged")) < 1e-4


@pytest.mark.parametrize("name", ["int4", "int4-fused"])
def test_merged_into_int4_bases(tmp_path: Path, bases: Path, adapter: Adapter, name: str) -> None:
    report = export_onnx(adapter, bases / name, tmp_path / "out", form="merged")
    assert len(report.layers_kept) == 14
    assert 0.9 < report.delta_kept < 1
    branch = tmp_path / "branch"
    export_onnx(adapter, bases / name, branch, form="branch", verify=False)
    # Rounding to 4 bits shows, but the adapter is there.
    effect = apart(logits(bases / name), logits(branch))
    assert apart(logits(tmp_path / "out"), logits(branch)) < 0.5 * effect
