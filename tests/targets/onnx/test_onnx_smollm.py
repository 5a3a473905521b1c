"""A real language model and a trained adapter, against PEFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from kronq.adapter import Adapter
from kronq.errors import MismatchError
from kronq.loading import load
from kronq.packed import save
from kronq.targets.onnx import export_onnx
from kronq.targets.onnx.slot_spec import Slots
from kronq.targets.onnx.slots import parameters

EXAMPLE = Path(__file__).parents[3] / "examples" / "arc-easy-lokr-r8"
IDS = np.array([[504, 3575, 282, 4649, 314, 253, 1123, 28]])

pytestmark = pytest.mark.slow


def logits(model: Path, adapter: Adapter | None = None) -> np.ndarray:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feeds: dict[str, np.ndarray] = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    for entry in session.get_inputs():
        if entry.name.startswith("past"):
            feeds[entry.name] = np.zeros((1, 3, 0, 64), dtype=np.float32)
    if adapter is not None:
        feeds |= parameters(adapter, Slots.read(model.parent))
    return session.run(["logits"], feeds)[0]


@pytest.fixture(scope="module")
def from_peft(smollm_hf: Path) -> np.ndarray:
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(smollm_hf, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, EXAMPLE).float().eval()
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(IDS)).logits.numpy()


@pytest.mark.parametrize(
    ("form", "precision"),
    [
        ("branch", "fp32"),
        ("merged", "fp32"),
        ("slots", "fp32"),
        ("branch", "q4"),
        ("slots", "q4"),
    ],
)
def test_the_exported_model_is_the_trained_one(
    tmp_path: Path, request: pytest.FixtureRequest, from_peft: np.ndarray, form: str, precision: str
) -> None:
    base = request.getfixturevalue({"fp32": "smollm_base", "q4": "smollm_q4"}[precision])
    out = tmp_path / "out"
    adapter = load(EXAMPLE)
    report = export_onnx(adapter, base, out, form=form)
    found = logits(out / "model.onnx", adapter if form == "slots" else None)
    plain = logits(base / "model.onnx")
    assert np.abs(found - from_peft).max() < 5e-4
    assert np.abs(plain - from_peft).max() > 1
    if form == "slots":
        assert np.array_equal(logits(out / "model.onnx"), plain)
    assert len(report.layers) == 210
    assert report.verification.layers.relative < 1e-5
    if precision == "fp32":
        assert report.verification.model.relative < 1e-5
    assert (out / "genai_config.json").is_file()
    assert (out / "tokenizer.json").is_file()


def test_four_bits_in_a_default_session(tmp_path: Path, smollm_base: Path) -> None:
    quantization = pytest.importorskip("kronq.quantization")
    small = quantization.quantize(load(EXAMPLE), 4, method="balanced")
    packed = load(save(small, tmp_path / "a.safetensors"))
    report = export_onnx(packed, smollm_base, tmp_path / "out", form="branch")
    assert report.adapter_bytes == (tmp_path / "a.safetensors").stat().st_size
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    assert [f.name for f in model.functions] == ["KronBranch_float16_int4"]
    merged = tmp_path / "merged"
    export_onnx(packed, smollm_base, merged, form="merged", verify=False)
    found, wanted = logits(tmp_path / "out" / "model.onnx"), logits(merged / "model.onnx")
    assert np.abs(found - wanted).max() < 5e-4


def test_an_adapter_of_a_deeper_model_is_refused_whole(tmp_path: Path, smollm_base: Path) -> None:
    adapter = load(EXAMPLE)
    layers = {name.replace("layers.29.", "layers.30."): delta for name, delta in adapter.items()}
    with pytest.raises(MismatchError, match="7 of 210") as error:
        export_onnx(Adapter(layers), smollm_base, tmp_path / "out")
    for block in ("self_attn.q_proj", "mlp.down_proj"):
        assert f"model.layers.30.{block}" in str(error.value)
    assert not (tmp_path / "out").exists()
