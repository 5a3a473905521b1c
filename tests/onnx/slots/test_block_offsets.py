"""Blocks of GGUF files and their offsets by compiled operators, against ONNX Runtime's own."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import kronq
from kronq.compiled.find import compiled_library
from kronq.compiled.platforms import this_platform
from kronq.errors import KronqWarning, UnsupportedError
from kronq.model.adapter import Adapter
from kronq.onnx.forms import Pooled, Slots
from kronq.onnx.slots.block_products import MEANT
from kronq.onnx.slots.kernel import PROGRAM
from kronq.onnx.slots.pool_inputs import pool_inputs
from kronq.onnx.slots.record import adapter_record
from tests.onnx.slots.test_compiled_operator import delta, opened

try:
    LIBRARY = compiled_library(PROGRAM)
except UnsupportedError as error:
    pytest.skip(str(error), allow_module_level=True)

D_IN, NAMES = 96, ("gate", "up")


def operator(count: int, threads: int = 1) -> ort.InferenceSession:
    names = [*(f"y{i}" for i in range(count)), *(f"o{i}" for i in range(count))]
    outs = [f"z{i}" for i in range(count)]
    node = helper.make_node(f"BlockOffsets_{count}", ["x", *names], outs, domain="kronq")
    tensor = helper.make_tensor_value_info
    given = [tensor(n, TensorProto.FLOAT, [None] * (2 if "o" in n else 3)) for n in ["x", *names]]
    made = [tensor(n, TensorProto.FLOAT, [None] * 3) for n in outs]
    return opened(helper.make_graph([node], "one", given, made), threads)


@pytest.mark.parametrize("tokens", [0, 1, 3, 4, 9, 70])
@pytest.mark.parametrize(
    ("blocks", "size", "widths"),
    [(18, 32, [576, 192, 192]), (1, 8, [16]), (3, 256, [48, 1104]), (48, 32, [272] * 4)],
)
def test_it_adds_the_products_with_the_sums(tokens, blocks, size, widths) -> None:
    rng = np.random.default_rng(tokens)
    feeds = {"x": rng.normal(size=(1, tokens, blocks * size)).astype(np.float32)}
    for i, width in enumerate(widths):
        feeds[f"y{i}"] = rng.normal(size=(1, tokens, width)).astype(np.float32)
        feeds[f"o{i}"] = rng.normal(size=(blocks, width)).astype(np.float32)
    sums = feeds["x"].astype(np.float64).reshape(1, tokens, blocks, size).sum(-1)
    one, two = (operator(len(widths), threads).run(None, feeds) for threads in (1, 2))
    for i, z in enumerate(one):
        expected = feeds[f"y{i}"] + sums @ feeds[f"o{i}"]
        assert np.abs(z - expected).max(initial=0) <= 1e-6 * np.abs(expected).max(initial=1)
        assert np.array_equal(z, two[i])


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        ((3, 32), "another layer"),
        ((5, 16), "blocks of a size"),
        ((96, 16), "blocks of a size"),
        ((0, 16), "blocks of a size"),
    ],
)
@pytest.mark.parametrize("d_in", [D_IN, 0])
def test_shapes_that_do_not_fit_are_refused(offset, message, d_in) -> None:
    feeds = {"x": np.zeros((1, 2, d_in)), "y0": np.zeros((1, 2, 16)), "o0": np.zeros(offset)}
    with pytest.raises(Exception, match=message):
        operator(1).run(None, {name: each.astype(np.float32) for name, each in feeds.items()})


KINDS = ["exact-Q4_1", "fast-Q4_1", "exact-Q4_0", "fast-Q4_0", "fast-Q8_0"]


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory) -> Path:
    """Two layers of one input in blocks of a type, as ``kronq base`` writes them."""
    pytest.importorskip("gguf")
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    from kronq.base.gguf_graph import keep_blocks

    folder, rng = tmp_path_factory.mktemp(request.param, numbered=False), np.random.default_rng(0)
    how, _, name = request.param.partition("-")
    kind = GGMLQuantizationType[name]
    x = ir.val("x", ir.DataType.FLOAT, ["batch", "n", D_IN])
    writer = GGUFWriter(folder / "m.gguf", "llama")
    nodes, weights = [], []
    for name, d_out in zip(NAMES, (48, 64), strict=True):
        raw = quants.quantize(rng.standard_normal((d_out, D_IN), np.float32) + 0.3, kind)
        writer.add_tensor(f"blk.0.ffn_{name}.weight", raw, raw_dtype=kind)
        dense = quants.dequantize(raw, kind).T
        weights.append(ir.val(f"w_{name}", const_value=ir.tensor(np.ascontiguousarray(dense))))
        label = f"/model/layers.0/mlp/{name}_proj/MatMul"
        nodes.append(ir.node("MatMul", [x, weights[-1]], name=label))
        out = ir.node("Neg", nodes[-1].outputs, name=f"/model/{name}/Neg")
        nodes.append(out)
        for node, letter in ((nodes[-2], "y"), (out, "z")):
            node.outputs[0].name = f"{letter}_{name}"
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            node.outputs[0].shape = ir.Shape(["batch", "n", d_out])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    outputs = [node.outputs[0] for node in nodes if node.op_type == "Neg"]
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=weights, opset_imports={"": 21})
    ir.save(ir.Model(graph, ir_version=10), folder / "float.onnx")
    (folder / "base").mkdir()
    kept = keep_blocks(
        folder / "m.gguf",
        folder / "float.onnx",
        folder / "base" / "model.onnx",
        fast=how == "fast",
    )
    assert kept.kept == len(NAMES)
    return folder / "base"


def run(file: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(str(LIBRARY))
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def adapter() -> Adapter:
    rng = np.random.default_rng(1)
    shapes = zip(NAMES, (48, 64), strict=True)
    layers = {f"model.layers.0.mlp.{n}_proj": delta(rng, 4, 24, (4, d // 4, 3)) for n, d in shapes}
    return Adapter(layers)


@pytest.mark.parametrize("form", [Slots(compiled=True), Pooled()], ids=["slots", "pool"])
def test_an_export_computes_what_its_base_does(base: Path, form, tmp_path: Path) -> None:
    given, plain = adapter(), tmp_path / "plain"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", KronqWarning)
        kronq.export_onnx(given, base, tmp_path / "app", form=form)
    why = [str(each.message) for each in told if "stay ONNX Runtime's own" in str(each.message)]
    kronq.export_onnx(given, base, plain, form="branch", verify=False)
    nodes = onnx.load(tmp_path / "app" / "model.onnx", load_external_data=False).graph.node
    kinds = sorted(node.op_type for node in nodes)
    slots = "PoolSlots_2" if isinstance(form, Pooled) else "RecordSlots_2"
    how, _, kind = base.parent.name.partition("-")
    products = how == "fast" and kind.startswith("Q4") and this_platform() in MEANT
    plain_too = base.parent.name == "fast-Q8_0" and this_platform() in MEANT
    assert [each[-6:] for each in why] == ["8 bits"] * plain_too
    offsets = ["BlockOffsets_2"] if kind == "Q4_1" else []
    parts = ["BlockProducts_2"] if products else [*offsets, "MatMulNBits", "MatMulNBits"]
    assert kinds == [*parts, "Neg", "Neg", slots]
    record = adapter_record(given)
    x = {"x": np.random.default_rng(2).normal(size=(1, 5, D_IN)).astype(np.float32)}
    for some, reference in ((None, base), (record, plain)):
        if isinstance(form, Pooled):
            feeds = x | dict(pool_inputs(record, [(-1 if some is None else 0, 0)]))
        else:
            feeds = x if some is None else x | {"kronq.adapter": some}
        for z, expected in zip(
            run(tmp_path / "app" / "model.onnx", feeds),
            run(reference / "model.onnx", x),
            strict=True,
        ):
            np.testing.assert_allclose(z, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
