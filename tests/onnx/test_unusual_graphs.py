"""Bases whose graphs are unusual: tied weights, subgraphs, unknown ranks, unsorted nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from kronq.onnx.export import export_onnx
from tests.onnx import tiny_onnx as tiny


def test_a_second_adapter_on_top_of_the_first(tmp_path: Path) -> None:
    stored = tiny.build(tmp_path / "base.onnx")
    one, two = tiny.adapter(seed=1), tiny.adapter("lora", seed=2)
    export_onnx(one, tmp_path / "base.onnx", tmp_path / "one")
    export_onnx(two, tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "adapter_2.safetensors").is_file()
    x = tiny.random_input("matmul")
    both = {name: tiny.dense(one)[name] + tiny.dense(two)[name] for name in tiny.LAYERS}
    found = tiny.run(tmp_path / "two" / "model.onnx", x)
    assert tiny.relative_difference(found, tiny.expected(stored, both, x)) < 1e-6


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
        assert tiny.relative_difference(session.run(None, {"ids": ids})[0], wanted) < 1e-6


def test_a_rank_that_nobody_states(tmp_path: Path) -> None:
    """Behind an operator that shape inference does not know, a branch works on rows."""
    stored = tiny.build(tmp_path / "base.onnx")
    model = onnx.load(tmp_path / "base.onnx")
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "base.onnx")
    for family in tiny.FAMILIES:
        adapter = tiny.adapter(family)
        export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", force=True, verify=False)
        for kind in ("matmul", "gemm"):
            x = tiny.random_input(kind)
            wanted = tiny.expected(stored, tiny.dense(adapter), x)
            found = tiny.run(tmp_path / "out" / "model.onnx", x)
            assert tiny.relative_difference(found, wanted) < 1e-6


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
            assert tiny.relative_difference(found, wanted) < 1e-6


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
    x = tiny.random_input("matmul")
    changes = {} if form == "slots" else tiny.dense(adapter)
    found = tiny.run(tmp_path / "out" / "model.onnx", x)
    assert tiny.relative_difference(found, tiny.expected(stored, changes, x)) < 1e-6


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
    wanted = tiny.run(tmp_path / "b.onnx", x) + adapter[layer].apply(x)
    assert tiny.relative_difference(tiny.run(tmp_path / "out" / "model.onnx", x), wanted) < 1e-6
