"""Every family of adapters in every kind of layer, through ONNX Runtime and onnx's evaluator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from kronq.errors import (
    FormatError,
    KronqError,
    MismatchError,
    NotFoundError,
    OutputExistsError,
    UnsupportedError,
)
from kronq.model.adapter import Adapter
from kronq.model.delta import Product
from kronq.model.matrix import Float, Matrix
from kronq.onnx.export import export_onnx
from kronq.onnx.verify import check_branches as checks
from kronq.packed import read_packed, save
from kronq.quantization.mixed.native import native
from tests.onnx import tiny_onnx as tiny

KINDS = ["matmul", "transposed", "gemm", "gemm_t"]
FAMILIES = ["kron", "split", "full", "cropped", "lora"]


def x_for(kind: str, dtype: type = np.float32) -> np.ndarray:
    shape = (3, tiny.D_IN) if kind.startswith("gemm") else (2, 3, tiny.D_IN)
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def dense(adapter: Adapter) -> dict[str, np.ndarray]:
    return {
        name: d.dense().astype(np.float64)[: tiny.LAYERS[name][0], : tiny.LAYERS[name][1]]
        for name, d in adapter.items()
    }


def run(model: Path, x: np.ndarray) -> np.ndarray:
    """A default session: exact arithmetic must not need a setting."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_in_every_kind_of_layer(
    tmp_path: Path, kind: str, family: str, form: str
) -> None:
    base, adapter = tmp_path / "base.onnx", tiny.adapter(family)
    stored = tiny.build(base, kind)
    report = export_onnx(adapter, base, tmp_path / "out", form=form)
    x = x_for(kind)
    wanted = tiny.expected(stored, dense(adapter), x, kind)
    model = tmp_path / "out" / "model.onnx"
    assert relative(run(model, x), wanted) < 1e-6
    assert relative(ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})[0], wanted) < 1e-6
    onnx.checker.check_model(str(model))
    assert report.verification is not None
    assert report.verification.checker
    assert report.verification.model is not None
    assert report.verification.model.relative < 1e-5
    assert report.verification.effect > 0.01
    assert bool(report.cropped) == (family == "cropped")


@pytest.mark.parametrize("opset", [13, 18, 22])
@pytest.mark.parametrize("group_size", [None, 4, 7])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_quantized_factors_are_exact_and_stay_integers(
    tmp_path: Path, bits: int, group_size: int | None, opset: int
) -> None:
    base = tmp_path / "base.onnx"
    stored = tiny.build(base, opset=opset)
    packed = save(tiny.adapter(bits=bits, group_size=group_size), tmp_path / "a.safetensors")
    adapter = read_packed(packed)
    report = export_onnx(adapter, base, tmp_path / "out")
    if bits in (8, 4) and opset == 22:  # ONNX has these widths: the packed file is in the folder
        assert report.adapter_bytes == packed.stat().st_size
    x = x_for("matmul")
    wanted = tiny.expected(stored, dense(adapter), x)
    model = tmp_path / "out" / "model.onnx"
    assert relative(run(model, x), wanted) < 1e-6
    if opset == 22:
        found = ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})[0]
        assert relative(found, wanted) < 1e-6
    factors = [
        i for i in onnx.load(model, load_external_data=False).graph.initializer if ".B1" in i.name
    ]
    types = {onnx.TensorProto.DataType.Name(i.data_type) for i in factors}
    assert types == {"INT4" if bits < 8 and opset >= 21 else "INT8", "FLOAT16"}
    for tensor in factors:
        told = {entry.key: entry.value for entry in tensor.external_data}
        assert told["location"] == "adapter.safetensors"


@pytest.mark.parametrize("family", ["lora", "full", "split"])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_families(tmp_path: Path, family: str, bits: int) -> None:
    stored = tiny.build(tmp_path / "base.onnx", "gemm_t")
    adapter = tiny.adapter(family, bits=bits)
    export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out")
    x = x_for("gemm_t")
    wanted = tiny.expected(stored, dense(adapter), x, "gemm_t")
    assert relative(run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6


@pytest.mark.parametrize("opset", [13, 22])
@pytest.mark.parametrize("family", FAMILIES)
def test_native_codes_are_widened_and_stay_integers(
    tmp_path: Path, family: str, opset: int
) -> None:
    """Mixed widths, B2 without scales, components and a layer without any bits."""
    stored = tiny.build(tmp_path / "base.onnx", opset=opset)
    trained = tiny.adapter(family)
    first = next(iter(trained))
    silent = replace(trained[first], b=Product(*(zeros(m) for m in trained[first].b.matrices)))
    trained = replace(trained, layers={**trained.layers, first: silent})
    adapter = read_packed(save(native(trained, 3), tmp_path / "a.safetensors"))
    export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out")
    x = x_for("matmul")
    wanted = tiny.expected(stored, dense(adapter), x)
    model = tmp_path / "out" / "model.onnx"
    assert relative(run(model, x), wanted) < 1e-6
    assert relative(ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})[0], wanted) < 1e-6
    factors = [
        onnx.TensorProto.DataType.Name(i.data_type)
        for i in onnx.load(model, load_external_data=False).graph.initializer
        if i.name.endswith((".B1", ".B2"))
    ]
    assert set(factors) <= {"INT4", "INT8"}
    assert ("INT4" in factors) == (opset == 22)


def zeros(matrix: Matrix) -> Float:
    return Float(np.zeros(matrix.shape, dtype=np.float32))


def test_stored_halves_are_widened_in_the_graph(tmp_path: Path) -> None:
    import ml_dtypes

    stored = tiny.build(tmp_path / "base.onnx")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        adapter = tiny.adapter(dtype=dtype)
        export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", force=True)
        x = x_for("matmul")
        wanted = tiny.expected(stored, dense(adapter), x)
        assert relative(run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6
        assert read_packed(tmp_path / "out" / "adapter.safetensors").nbytes == adapter.nbytes


@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("kind", ["matmul", "gemm_t"])
def test_half_precision_base(tmp_path: Path, kind: str, form: str) -> None:
    stored = tiny.build(tmp_path / "base.onnx", kind, dtype=np.float16)
    adapter = tiny.adapter()
    report = export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", form=form)
    x = x_for(kind, np.float16)
    wanted = tiny.expected(stored, dense(adapter), x, kind)
    found = run(tmp_path / "out" / "model.onnx", x)
    assert found.dtype == np.float16
    assert relative(found, wanted) < 4e-3
    if form == "merged":
        assert 0 < report.verification.delta_lost < 1e-2


def test_merging_keeps_a_half_weight_half(tmp_path: Path) -> None:
    stored = tiny.build(tmp_path / "base.onnx", "half")
    adapter = tiny.adapter()
    export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", form="merged")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {i.data_type for i in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    x = x_for("matmul")
    half = {n: w.astype(np.float16) for n, w in stored.items()}
    wanted = tiny.expected(half, dense(adapter), x)
    assert relative(run(tmp_path / "out" / "model.onnx", x), wanted) < 2e-3


def test_one_function_for_layers_of_one_kind(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base.onnx")
    export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [(f.domain, f.name) for f in model.functions] == [("kronq", "KronBranch")]
    branches = [n for n in model.graph.node if n.domain == "kronq"]
    assert [n.name for n in branches] == [f"{name}/kronq" for name in tiny.LAYERS]
    assert all(n.domain == "" for f in model.functions for n in f.node)


def test_outputs_keep_their_names(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base.onnx")
    export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [o.name for o in model.graph.output] == ["y"]


def test_external_base_weights_come_along(tmp_path: Path) -> None:
    stored = tiny.build(tmp_path / "base" / "model.onnx", data=True)
    adapter = tiny.adapter()
    export_onnx(adapter, tmp_path / "base", tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "model.onnx.data", "adapter.safetensors"}
    assert (tmp_path / "base" / "model.onnx.data").stat().st_nlink == 1
    x = x_for("matmul")
    wanted = tiny.expected(stored, dense(adapter), x)
    assert relative(run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6


def test_a_second_adapter_on_top_of_the_first(tmp_path: Path) -> None:
    stored = tiny.build(tmp_path / "base.onnx")
    one, two = tiny.adapter(seed=1), tiny.adapter("lora", seed=2)
    export_onnx(one, tmp_path / "base.onnx", tmp_path / "one")
    export_onnx(two, tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "adapter_2.safetensors").is_file()
    x = x_for("matmul")
    both = {name: dense(one)[name] + dense(two)[name] for name in tiny.LAYERS}
    found = run(tmp_path / "two" / "model.onnx", x)
    assert relative(found, tiny.expected(stored, both, x)) < 1e-6


def test_a_tied_weight_is_left_to_its_other_user(tmp_path: Path) -> None:
    from onnx import helper, numpy_helper

    w = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("Gather", ["t", "ids"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["y"], name="/lm_head/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "sequence", 6])],
        [numpy_helper.from_array(w, "w")],
    )
    # The embedding is [6, 8] and the head [6, 8] read the other way round.
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "base.onnx",
    )
    adapter = tiny.adapter("lora", layers={"lm_head": (6, 8)})
    ids = np.array([[0, 3, 5]])
    wanted = w.T[ids] @ (w + adapter["lm_head"].dense().T)
    for form in ("branch", "merged"):
        export_onnx(adapter, tmp_path / "base.onnx", tmp_path / form, form=form)
        session = ort.InferenceSession(str(tmp_path / form / "model.onnx"))
        assert relative(session.run(None, {"ids": ids})[0], wanted) < 1e-6


def test_a_rank_that_nobody_states(tmp_path: Path) -> None:
    """Behind an operator that shape inference does not know, a branch works on rows."""
    stored = tiny.build(tmp_path / "base.onnx")
    model = onnx.load(tmp_path / "base.onnx")
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "base.onnx")
    for family in FAMILIES:
        adapter = tiny.adapter(family)
        export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", force=True, verify=False)
        for kind in ("matmul", "gemm"):
            x = x_for(kind)
            wanted = tiny.expected(stored, dense(adapter), x)
            assert relative(run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6


def test_layers_in_a_subgraph(tmp_path: Path) -> None:
    """Decoders that were merged into one file have their layers in the branches of an If."""
    helper = onnx.helper
    float_, bool_ = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
    w = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    graphs = []
    for index in range(2):
        out = helper.make_tensor_value_info(f"o{index}", float_, ["n", 8])
        node = helper.make_node("MatMul", ["x", "model.proj.weight"], [f"o{index}"])
        graphs.append(helper.make_graph([node], f"g{index}", [], [out]))
    node = helper.make_node("If", ["c"], ["y"], then_branch=graphs[0], else_branch=graphs[1])
    graph = helper.make_graph(
        [node],
        "outer",
        [
            helper.make_tensor_value_info("x", float_, ["n", 6]),
            helper.make_tensor_value_info("c", bool_, []),
        ],
        [helper.make_tensor_value_info("y", float_, ["n", 8])],
        [onnx.numpy_helper.from_array(w, "model.proj.weight")],
    )
    imports = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "b.onnx")
    adapter = tiny.adapter("lora", layers={"model.proj": (8, 6)})
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    wanted = x @ (w + adapter["model.proj"].dense().T)
    for form in ("branch", "merged"):
        export_onnx(adapter, tmp_path / "b.onnx", tmp_path / form, form=form)
        session = ort.InferenceSession(str(tmp_path / form / "model.onnx"))
        for c in (True, False):
            found = session.run(None, {"x": x, "c": np.array(c)})[0]
            assert relative(found, wanted) < 1e-6


@pytest.mark.parametrize("form", ["branch", "merged", "slots"])
def test_nodes_of_a_base_may_be_out_of_order(tmp_path: Path, form: str) -> None:
    """ONNX Runtime runs such a graph; the specification does not allow it."""
    stored = tiny.build(tmp_path / "base.onnx")
    model = onnx.load(tmp_path / "base.onnx")
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "base.onnx")
    adapter = tiny.adapter()
    export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", form)
    x = x_for("matmul")
    changes = {} if form == "slots" else dense(adapter)
    found = run(tmp_path / "out" / "model.onnx", x)
    assert relative(found, tiny.expected(stored, changes, x)) < 1e-6


def test_a_branch_beside_quantized_base_weights(tmp_path: Path) -> None:
    helper = onnx.helper
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (8, 1, 16), dtype=np.uint8)
    scales = rng.random((8, 1)).astype(np.float32) / 8
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w_Q4", "w_scales"],
        ["y"],
        name="/model/layers.0/attn/q_proj/MatMul_Q4",
        domain="com.microsoft",
        **{"K": 32, "N": 8, "bits": 4, "block_size": 32},
    )
    graph = helper.make_graph(
        [node],
        "quantized",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "sequence", 32])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "sequence", 8])],
        [
            onnx.numpy_helper.from_array(codes, "w_Q4"),
            onnx.numpy_helper.from_array(scales, "w_scales"),
        ],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "b.onnx")
    layer = "model.layers.0.self_attn.q_proj"
    adapter = tiny.adapter(layers={layer: (8, 32)}, bits=4)
    report = export_onnx(adapter, tmp_path / "b.onnx", tmp_path / "out")
    assert report.verification.effect > 0.01
    assert "merging rounds" in report.verification.model_skipped
    x = rng.standard_normal((2, 3, 32)).astype(np.float32)
    wanted = run(tmp_path / "b.onnx", x) + adapter[layer].apply(x)
    assert relative(run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6


def test_a_genai_folder_stays_one(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base" / "decoder.onnx", data=True)
    config = {"model": {"decoder": {"filename": "decoder.onnx", "session_options": {}}}}
    (tmp_path / "base" / "genai_config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert written["model"]["decoder"]["filename"] == "model.onnx"
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_the_output_may_not_hold_an_input(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base" / "model.onnx")
    for out in (tmp_path / "base", tmp_path):
        with pytest.raises(KronqError, match="holds an input"):
            export_onnx(tiny.adapter(), tmp_path / "base", out, force=True)
    assert (tmp_path / "base" / "model.onnx").is_file()


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base.onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError):
        export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
    export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out", force=True)


def test_nothing_is_written_when_a_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.build(tmp_path / "base.onnx")
    tolerances = dict.fromkeys(checks.TOLERANCES, 0.0)
    monkeypatch.setattr(checks, "TOLERANCES", tolerances)
    with pytest.raises(KronqError, match="differs from the normal form"):
        export_onnx(tiny.adapter(), tmp_path / "base.onnx", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["base.onnx"]


def test_damaged_bases(tmp_path: Path) -> None:
    adapter = tiny.adapter()
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(FormatError, match="not an ONNX model"):
        export_onnx(adapter, tmp_path / "bad.onnx", tmp_path / "out")
    with pytest.raises(NotFoundError, match="no such file"):
        export_onnx(adapter, tmp_path / "none.onnx", tmp_path / "out")
    tiny.build(tmp_path / "b" / "model.onnx", data=True)
    (tmp_path / "b" / "model.onnx.data").unlink()
    with pytest.raises(FormatError, match=r"external data is missing.*model\.onnx\.data"):
        export_onnx(adapter, tmp_path / "b", tmp_path / "out")
    tiny.build(tmp_path / "old.onnx", opset=11)
    with pytest.raises(UnsupportedError, match="opset"):
        export_onnx(adapter, tmp_path / "old.onnx", tmp_path / "out")


def test_external_data_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base" / "model.onnx", data=True)
    model = onnx.load(tmp_path / "base" / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../secret"
    (tmp_path / "base" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match="outside of its folder"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")


def test_links_that_onnx_refuses_are_told_before_anything_is_written(tmp_path: Path) -> None:
    data = tmp_path / "base" / "model.onnx.data"
    tiny.build(tmp_path / "base" / "model.onnx", data=True)
    (tmp_path / "second").hardlink_to(data)
    with pytest.raises(UnsupportedError, match="hard link"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")
    data.unlink()
    data.symlink_to(tmp_path / "second")
    with pytest.raises(UnsupportedError, match="cp -rL"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")


def test_truncated_base_weights(tmp_path: Path) -> None:
    data = tmp_path / "base" / "model.onnx.data"
    tiny.build(tmp_path / "base" / "model.onnx", data=True)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(FormatError, match="truncated"):
        export_onnx(tiny.adapter(), tmp_path / "base", tmp_path / "out")


def test_a_wrong_base_is_told_with_both_shapes(tmp_path: Path) -> None:
    tiny.build(tmp_path / "base.onnx")
    layers = {name: (out + 4, wide) for name, (out, wide) in tiny.LAYERS.items()}
    with pytest.raises(MismatchError) as error:
        export_onnx(tiny.adapter(layers=layers), tmp_path / "base.onnx", tmp_path / "out")
    text = str(error.value)
    assert "[40, 24]" in text
    assert "[36, 24]" in text
    assert "wrong base model?" in text
