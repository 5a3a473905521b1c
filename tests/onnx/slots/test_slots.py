"""One graph with slots, filled with every family of adapters, and with none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import kronq
from kronq.errors import FormatError, KronqWarning, MismatchError, UnsupportedError
from kronq.genai.session import Session
from kronq.genai.token_inputs import make_token_inputs
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from kronq.onnx.forms import Slots
from kronq.onnx.sessions import find_kernel
from kronq.onnx.slots.slot_inputs import factor_inputs, slot_inputs
from kronq.onnx.slots.slot_spec import SPEC, SlotSpec
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter
from tests.adapters import dense, lora, matrix
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter

IDS = np.arange(10, 40)[None]
QKV = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, kernel: bool) -> Path:
    out = tmp_path_factory.mktemp("slots") / "out"
    kronq.export_onnx(tiny_adapter(), tiny_base, out, form=Slots(compiled=kernel))
    return out


def logits(folder: Path, adapter: Adapter | None) -> np.ndarray:
    given = None if adapter is None else slot_inputs(adapter, SlotSpec.read(folder))
    return Session(folder, device="cpu").logits(IDS, extra=given)


def reference(adapter: Adapter, base: Path, out: Path) -> np.ndarray:
    kronq.export_onnx(adapter, base, out, form="merged", verify=False)
    return Session(out, device="cpu").logits(IDS)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max())


def test_no_adapter_is_the_base_to_the_bit(folder: Path, tiny_base: Path) -> None:
    assert np.array_equal(logits(folder, None), Session(tiny_base, device="cpu").logits(IDS))


@pytest.mark.parametrize("rank", [1, 4, 9])
@pytest.mark.parametrize("family", ["kron", "split", "full", "lora"])
def test_every_family_and_rank_in_one_graph(
    tmp_path: Path, folder: Path, tiny_base: Path, family: str, rank: int
) -> None:
    adapter = tiny_adapter(family, seed=rank, rank=rank)
    found = logits(folder, adapter)
    assert not close(found, logits(folder, None))
    assert close(found, reference(adapter, tiny_base, tmp_path / "merged"))


def test_quantized_padded_and_partial_adapters(
    tmp_path: Path, folder: Path, tiny_base: Path
) -> None:
    rng = np.random.default_rng(0)
    a, b = Product(matrix(rng, 3, 5)), Product(matrix(rng, 22, 4), matrix(rng, 4, 13))
    negative = Delta(a, b, -0.3, (64, 64))  # 66×65, padded
    whole = {**kronq.quantize(tiny_adapter(), bits=4), "model.layers.0.self_attn.q_proj": negative}
    for adapter in (
        Adapter(whole, Origin("memory")),
        Adapter(dict(list(whole.items())[1:3]), Origin("memory")),
    ):
        expected = reference(adapter, tiny_base, tmp_path / str(len(adapter)))
        assert close(logits(folder, adapter), expected)


def test_raw_factors_are_cropped_to_their_slot(
    tmp_path: Path, folder: Path, tiny_base: Path
) -> None:
    """They do not know d_out and d_in: 3·22 by 5·13 is for 64 by 64, and 3·23 is not."""
    rng = np.random.default_rng(0)

    def raw(b_out: int) -> Adapter:
        a, b = Product(matrix(rng, 3, 5)), Product(matrix(rng, b_out, 4), matrix(rng, 4, 13))
        layers = {"model.layers.0.self_attn.q_proj": Delta(a, b, 0.3, (3 * b_out, 65))}
        return Adapter(layers, Origin("factors", cropped_by_base=True))

    adapter = raw(22)
    assert close(logits(folder, adapter), reference(adapter, tiny_base, tmp_path / "merged"))
    kronq.export_onnx(adapter, tiny_base, tmp_path / "own", form="slots")
    assert close(logits(tmp_path / "own", adapter), logits(folder, adapter))
    with pytest.raises(MismatchError, match=r"another shape.*\[69, 65\].*\[64, 64\]"):
        logits(folder, raw(23))


@pytest.mark.parametrize("fuse_qkv", [False, True])
def test_layers_that_read_one_input_may_be_cut_alike_or_not(
    tmp_path: Path, llama_bases: Path, tiny_base: Path, fuse_qkv: bool, kernel: bool
) -> None:
    """q, k and v of one A shape share a reshape; of several, the exact low-rank view goes in."""
    rng = np.random.default_rng(1)
    base = llama_bases / "fp32 fused whole" if fuse_qkv else tiny_base

    def layer(shape: tuple[int, int], a: tuple[int, int] | None) -> Delta:
        a_out, a_in = a or (1, 1)
        pair = Product(matrix(rng, shape[0] // a_out, 3), matrix(rng, 3, shape[1] // a_in))
        return Delta(Product(matrix(rng, *a)) if a else ONE, pair, 0.2, shape)

    def whole(*cuts: tuple[int, int] | None) -> Adapter:
        names = zip(QKV.items(), cuts, strict=True)
        layers = {f"model.layers.1.self_attn.{n}": layer(s, cut) for (n, s), cut in names}
        return Adapter(layers, Origin("memory"))

    alike = whole((2, 4), (4, 4), (2, 4))
    out = tmp_path / "out"
    report = kronq.export_onnx(alike, base, out, form=Slots(compiled=kernel))
    assert report.verification is not None
    assert report.verification.model is not None
    assert len(SlotSpec.read(out).groups) == 1
    for adapter in (alike, whole((2, 4), (4, 8), None)):
        merged = tmp_path / f"{adapter['model.layers.1.self_attn.k_proj'].a.shape}"
        assert close(logits(out, adapter), reference(adapter, tiny_base, merged))


def test_a_layer_may_read_another_ones_output(tmp_path: Path, kernel: bool) -> None:
    """Two layers with nothing in between: the second sees what the first one's slot adds."""
    rng = np.random.default_rng(0)
    weights = {"a.weight": (20, 24), "b.weight": (24, 16)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
            helper.make_node("MatMul", ["h", "b.weight"], ["y"]),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 16])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx")
    adapter = Adapter({"a": lora(rng, 24, 20), "b": lora(rng, 16, 24)}, Origin("memory"))
    out = tmp_path / "out"
    kronq.export_onnx(adapter, tmp_path / "m.onnx", out, form=Slots(compiled=kernel), verify=False)
    x = rng.normal(size=(1, 3, 20)).astype(np.float32)
    found = Session(out).run({"x": x, **slot_inputs(adapter, SlotSpec.read(out))})["y"]
    first, second = (numpy_helper.to_array(w).astype(np.float64) for w in graph.initializer)
    wanted = x @ (first + dense(adapter["a"]).T) @ (second + dense(adapter["b"]).T)
    assert close(found, wanted)


def test_onnx_runtimes_own_lora_adapter(tmp_path: Path, folder: Path) -> None:
    adapter = tiny_adapter(seed=5)
    file = write_onnx_adapter(adapter, folder, tmp_path / "a.onnx_adapter")
    options = ort.SessionOptions()
    if library := find_kernel(folder):
        options.register_custom_ops_library(str(folder / library.name))
    model, provider = str(folder / "model.onnx"), ["CPUExecutionProvider"]
    session = ort.InferenceSession(model, options, providers=provider)
    loaded = ort.LoraAdapter()
    loaded.Load(str(file))
    options = ort.RunOptions()
    options.add_active_adapter(loaded)
    feeds = make_token_inputs(session, Session(folder).files, IDS, None, {})
    found = session.run(["logits"], feeds, options)[0]
    assert np.array_equal(found, logits(folder, adapter))


def test_what_goes_in_is_the_normal_form(folder: Path) -> None:
    """Multiplied out by numpy, as the graph does it, without ONNX Runtime."""
    adapter, slots = tiny_adapter("full", seed=2), SlotSpec.read(folder)
    given = factor_inputs(adapter, slots)
    for group in slots.groups:
        at = 0
        cut = tuple(given[group.shape_name][-2:])
        for member in group.members:
            b1 = given[f"{member.layer}.kronq.B1"]
            b2 = given[group.b2_name][:, at : at + len(b1)]
            at += len(b1)
            x = np.eye(group.d_in).reshape(-1, *cut)
            y = (given[f"{member.layer}.kronq.A"] @ (x @ b2) @ b1).reshape(group.d_in, -1)
            np.testing.assert_allclose(y.T, dense(adapter[member.layer]), atol=1e-5)


def test_language_models_get_slots_by_default(tmp_path: Path, tiny_base: Path) -> None:
    report = kronq.export_onnx(tiny_adapter(), tiny_base, tmp_path / "out", verify=False)
    assert report.form == "slots"
    assert SlotSpec.read(tmp_path / "out").kernel == (tuple(report.kernel) or None)


def test_compiled_where_it_can_be_had_else_open(tmp_path, tiny_base, monkeypatch, capsys) -> None:
    """By default; one line says why they are open, and nobody who asks for compiled gets them."""
    monkeypatch.setenv("CC", "no-such-compiler")
    packed = tmp_path / "a.safetensors"
    kronq.save(kronq.quantize(tiny_adapter(), bits=8), packed)
    command = Kronq(capsys)
    place = ["export", packed, "--base", tiny_base, "--no-verify", "-o"]
    done = command(*place, tmp_path / "open")
    assert done.code == 0
    assert done.err.count("\n") <= 2  # two lines in 80 columns
    because = "open slots, which take longer than the compiled operator: no C compiler"
    assert f"kronq: note: {because}; found no-such-compiler" in " ".join(done.err.split())
    assert "ONNX's own" in done.out
    found = command(*place, tmp_path / "json", "--json")
    assert found.json()["kernel"] == []
    assert found.json()["open_because"] == "no C compiler; found no-such-compiler"
    assert SlotSpec.read(tmp_path / "open").kernel is None
    assert "no C compiler" in command.refuses(*place, tmp_path / "asked", "--kernel")
    quiet = command(*place, tmp_path / "asked", "--no-kernel")
    assert (quiet.code, quiet.err) == (0, "")
    assert "for slots" in command.refuses(*place, tmp_path / "x", "--no-kernel", "--form", "branch")


def test_slots_are_open_where_onnxruntime_runs_elsewhere(tmp_path, tiny_base, monkeypatch) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    with pytest.warns(KronqWarning, match="runs models elsewhere; found CUDAExecutionProvider"):
        report = kronq.export_onnx(tiny_adapter(), tiny_base, tmp_path / "out", verify=False)
    assert report.kernel == []


@pytest.mark.parametrize("precision", ["fp16", "fp16 fused"])
def test_a_compiled_operator_in_half_precision(
    tmp_path: Path, llama_bases: Path, precision: str
) -> None:
    half, adapter = llama_bases / precision, kronq.quantize(tiny_adapter(size=0.05), bits=8)
    for compiled in (False, True):  # each is compared with the merged form, too
        kronq.export_onnx(adapter, half, tmp_path / str(compiled), Slots(compiled=compiled))
    base = Session(half).logits(IDS)
    found, expected = (logits(tmp_path / name, adapter) for name in ("True", "False"))
    assert np.array_equal(logits(tmp_path / "True", None), base)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected - base).max()


def test_strangers_are_refused(tmp_path: Path, folder: Path, tiny_base: Path) -> None:
    slots = SlotSpec.read(folder)
    adapter = tiny_adapter()
    delta = adapter["model.layers.0.self_attn.q_proj"]
    with pytest.raises(MismatchError, match="no slot"):
        slot_inputs(replace(adapter, layers={"model.layers.7.self_attn.q_proj": delta}), slots)
    with pytest.raises(MismatchError, match="another shape"):
        slot_inputs(replace(adapter, layers={"model.layers.0.self_attn.v_proj": delta}), slots)
    with pytest.raises(UnsupportedError, match='form="slots"'):
        SlotSpec.read(tiny_base)
    old = slots.model_copy(update={"version": 1, "kernel": ("linux-x64",)})
    (tmp_path / SPEC).write_text(old.model_dump_json())
    with pytest.raises(UnsupportedError, match=r"earlier kronq.*export it again"):
        SlotSpec.read(tmp_path)
    (tmp_path / SPEC).write_text('{"version": 1}')
    with pytest.raises(FormatError, match="groups"):
        SlotSpec.read(tmp_path)
