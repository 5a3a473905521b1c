"""Adapters whose q, k and v (gate and up) are one layer, on bases that keep these apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import kronq
from kronq.errors import MismatchError
from kronq.genai.session import Session
from kronq.model.adapter import Adapter, Origin
from kronq.onnx.forms import Slots
from kronq.onnx.graph.match_table import match_table
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter
from tests.onnx import tiny_onnx as tiny

D_IN = 12
QKV = {"q": 16, "k": 6, "v": 6}
"""Rows of each part; a LoKr's blocks of 7 rows end in the middle of k and of v."""
GATE_UP = {"gate": 14, "up": 14}
BLOCK = "model.layers.0.self_attn"
X = np.random.default_rng(1).standard_normal((2, 3, D_IN)).astype(np.float32)


def build(
    path: Path,
    parts: dict[str, int] = QKV,
    *,
    stored: str = "initializer",
    inputs: dict[str, str] | None = None,
    names: str = BLOCK + ".{}_proj",
) -> np.ndarray:
    """Writes one MatMul a part, all of x, and returns their weights [Σ rows, D_IN]."""
    rng = np.random.default_rng(0)
    nodes, weights, rows = [], [], []
    for part, d_out in parts.items():
        w = rng.standard_normal((d_out, D_IN)).astype(np.float32)
        rows.append(w)
        own = names.format(part)
        value = f"{own}.weight"
        tensor = numpy_helper.from_array(w if stored == "turned" else w.T.copy(), value)
        weights.append(tensor)
        if stored == "shared":
            nodes.append(helper.make_node("Identity", [value], [f"{part}_w"]))
        if stored == "turned":
            nodes.append(helper.make_node("Transpose", [value], [f"{part}_t"], perm=[1, 0]))
            value = f"{part}_t"
        x = (inputs or {}).get(part, "x")
        node = "/" + own.replace(".", "/").replace("layers/", "layers.") + "/MatMul"
        nodes.append(helper.make_node("MatMul", [x, value], [f"{part}_y"], name=node))
        # The first part is read before the others are computed.
        nodes.append(helper.make_node("Mul", [f"{part}_y", "two"], [part]))
    outputs = [*parts, *(f"{part}_w" for part in parts if stored == "shared")]
    outputs += ["q_y"] if "q" in parts else []
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["relu"]), *nodes],
        "apart",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", D_IN])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [*weights, numpy_helper.from_array(np.float32(2), "two")],
    )
    imports = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return np.concatenate(rows)


def run(folder: Path, adapter: Adapter | None, parts: dict[str, int] = QKV) -> np.ndarray:
    """Returns the parts' outputs side by side, without the factor 2."""
    filled = {} if adapter is None else slot_inputs(adapter, SlotSpec.read(folder))
    found = Session(folder, device="cpu").run({"x": X} | filled)
    if "q" in parts:
        np.testing.assert_array_equal(found["q"], 2 * found["q_y"])
    return np.concatenate([found[part] for part in parts], axis=-1) / 2


def check(found: np.ndarray, weights: np.ndarray, delta: np.ndarray) -> None:
    np.testing.assert_allclose(found, X @ (weights + delta).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["kron", "split", "full", "lora"])
@pytest.mark.parametrize("form", ["branch", "merged"])
def test_rows_are_those_of_q_k_and_v(tmp_path: Path, family: str, form: str) -> None:
    weights, layer = build(tmp_path / "base.onnx"), f"{BLOCK}.qkv_proj"
    adapter = tiny.adapter(family, bits=4, layers={layer: (28, D_IN)})
    report = kronq.export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", form)
    places = [f"/model/layers.0/self_attn/{part}_proj/MatMul" for part in QKV]
    assert report.layers == {layer: ", ".join(places)}
    check(run(tmp_path / "out", None), weights, adapter[layer].dense())
    if form == "branch":  # the file is the adapter, codes and all
        kept = kronq.load(tmp_path / "out" / "adapter.safetensors")[layer]
        assert [m.dtype for m in kept.matrices] == [m.dtype for m in adapter[layer].matrices]


@pytest.mark.parametrize("family", ["kron", "split", "full", "lora"])
def test_slots_of_q_k_and_v(tmp_path: Path, family: str, kernel: bool) -> None:
    weights, layer = build(tmp_path / "base.onnx"), f"{BLOCK}.qkv_proj"
    adapter = tiny.adapter(family, bits=4, layers={layer: (28, D_IN)})
    kronq.export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", Slots(compiled=kernel))
    check(run(tmp_path / "out", adapter), weights, adapter[layer].dense())
    check(run(tmp_path / "out", None), weights, np.zeros_like(weights))


@pytest.mark.parametrize("stored", ["shared", "turned"])
@pytest.mark.parametrize("form", ["branch", "merged", "slots"])
def test_gate_and_up_in_weights_of_any_kind(tmp_path: Path, stored: str, form: str) -> None:
    mlp = "model.layers.0.mlp"
    weights = build(tmp_path / "base.onnx", GATE_UP, stored=stored, names=mlp + ".{}_proj")
    adapter = tiny.adapter("kron", layers={f"{mlp}.gate_up_proj": (28, D_IN)})
    kronq.export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", form=form)
    found = run(tmp_path / "out", adapter if form == "slots" else None, GATE_UP)
    check(found, weights, adapter[f"{mlp}.gate_up_proj"].dense())


def test_raw_factors_are_cropped_to_all_parts_together(tmp_path: Path) -> None:
    weights = build(tmp_path / "base.onnx")
    layer = f"{BLOCK}.qkv_proj"
    raw = tiny.adapter("cropped", layers={layer: (28, D_IN)})
    raw = replace(raw, origin=Origin("factors", cropped_by_base=True))
    report = kronq.export_onnx(raw, tmp_path / "base.onnx", tmp_path / "out", "branch")
    assert report.cropped == [layer]
    check(run(tmp_path / "out", None), weights, raw[layer].dense()[:28, :D_IN])


def test_what_is_no_fused_layer_of_the_base(tmp_path: Path) -> None:
    base, layer = tmp_path / "base.onnx", f"{BLOCK}.qkv_proj"
    build(base)

    def refused(shapes: dict[str, tuple[int, int]]) -> str:
        with pytest.raises(MismatchError) as error:
            kronq.export_onnx(tiny.adapter("lora", layers=shapes), base, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(error.value)

    text = refused({layer: (27, D_IN)})
    for words in ("[27, 12]", "[28, 12]", layer):
        assert words in text
    assert "do not go together" in refused({layer: (28, D_IN), f"{BLOCK}.k_proj": (6, D_IN)})
    # Rows of other names may be in another order.
    assert "no place" in refused({f"{BLOCK}.query_key_value": (28, D_IN)})
    build(base, inputs={"v": "relu"})
    assert "no place" in refused({layer: (28, D_IN)})


def test_the_table_shows_all_places(tmp_path: Path) -> None:
    build(tmp_path / "base.onnx")
    adapter = tiny.adapter("lora", layers={f"{BLOCK}.qkv_proj": (28, D_IN)})
    table = match_table(adapter, tmp_path / "base.onnx")
    assert table.problem is None
    assert [place.shape[0] for place in table.rows[0].places] == [*QKV.values()]
    assert not table.unused


@pytest.mark.parametrize("family", ["kron", "lora"])
def test_slots_of_a_fused_layer_take_its_parts_and_the_other_way_round(
    tmp_path: Path, family: str, kernel: bool
) -> None:
    weights = build(tmp_path / "base.onnx")
    whole = tiny.adapter(family, layers={f"{BLOCK}.qkv_proj": (28, D_IN)})
    shapes = {f"{BLOCK}.{part}_proj": (rows, D_IN) for part, rows in QKV.items()}
    apart = tiny.adapter("lora", layers=shapes)
    deltas = {
        id(whole): whole[f"{BLOCK}.qkv_proj"].dense(),
        id(apart): np.concatenate([apart[name].dense() for name in shapes]),
    }
    for opened, other in ((whole, apart), (apart, whole)):
        out = tmp_path / str(len(opened))
        kronq.export_onnx(opened, tmp_path / "base.onnx", out, Slots(compiled=kernel))
        check(run(out, other), weights, deltas[id(other)])
        check(run(out, opened), weights, deltas[id(opened)])
        file = write_onnx_adapter(other, out, tmp_path / f"{len(opened)}.onnx_adapter")
        session = Session(out, {"other": file}, device="cpu")
        found = session.run({"x": X}, [*QKV], adapter="other")
        joined = np.concatenate([found[part] for part in QKV], axis=-1) / 2
        check(joined, weights, deltas[id(other)])
    only_v = Adapter({f"{BLOCK}.v_proj": apart[f"{BLOCK}.v_proj"]})
    delta = np.zeros_like(weights)
    delta[-6:] = only_v[f"{BLOCK}.v_proj"].dense()
    check(run(tmp_path / "1", only_v), weights, delta)
    wrong = tiny.adapter("lora", layers={f"{BLOCK}.v_proj": (11, D_IN)})
    with pytest.raises(MismatchError, match=r"do not fit.*v \[11, 12\]"):
        slot_inputs(wrong, SlotSpec.read(tmp_path / "1"))
    both = Adapter({**apart, **whole})
    with pytest.raises(MismatchError, match="one slot"):
        slot_inputs(both, SlotSpec.read(tmp_path / "3"))
