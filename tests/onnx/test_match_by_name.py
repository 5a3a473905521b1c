"""Matching by name: certain matches are made, others are refused, none is guessed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from kronq.errors import MismatchError
from kronq.onnx.export import export_onnx
from kronq.onnx.graph.match import match_layers
from kronq.onnx.graph.match_by_name import canonical, match_by_name
from kronq.onnx.graph.site_names import SCOPES
from kronq.onnx.graph.sites import find_sites
from tests.onnx import tiny_onnx as tiny

BLOCKS = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"]


def base(
    names: list[str],
    *,
    node: str = "node_{}",
    scopes: list[str] | None = None,
    given: tuple[str, ...] = (),
    result: str = "y0",
) -> ir.Model:
    """One MatMul a name, all fed by x; more inputs and another output's name, if given."""
    nodes = []
    for i, name in enumerate(names):
        output = f"y{i}" if i else result
        made = helper.make_node("MatMul", ["x", name], [output], name=node.format(i))
        if scopes:
            entry = made.metadata_props.add()
            entry.key, entry.value = SCOPES, repr(["", "model", scopes[i], "linear"])
        nodes.append(made)
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4])
            for name in ("x", *given)
        ],
        [helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.zeros((4, 4), np.float32), name) for name in names],
    )
    return ir.from_proto(helper.make_model(graph))


def found(layers: list[str], model: ir.Model) -> list[str]:
    matches = match_layers(layers, find_sites(model))
    return [matches[name][0].source.name for name in layers]


def test_canonical_names() -> None:
    same = [
        "model.layers.0.self_attn.q_proj",
        "model_layers_0_self_attn_q_proj",
        "/model/layers.0/attn/q_proj",
        "model.layers.0.attn.q_proj",
    ]
    assert len({canonical(name) for name in same}) == 1
    assert canonical("layers.10.q") != canonical("layers.1.q")


@pytest.mark.parametrize("names", ["hf", "genai", "torchscript", "inner"])
@pytest.mark.parametrize("flat", ["{}", "lycoris_{}", "lora_unet_{}", "some"])
def test_conventions(tmp_path: Path, names: str, flat: str) -> None:
    """Flattened keys match, those of some layers beside the paths of others too."""
    tiny.build(tmp_path / "base.onnx", names=names)
    layers = {flat.format(n.replace(".", "_")): s for n, s in tiny.LAYERS.items()}
    if flat == "some":
        layers = {
            f"lycoris_{n.replace('.', '_')}" if "q_proj" in n else n: s
            for n, s in tiny.LAYERS.items()
        }
    elif flat == "{}":
        layers = dict(tiny.LAYERS)
    report = export_onnx(tiny.adapter(layers=layers), tmp_path / "base.onnx", tmp_path / "out")
    assert [*report.layers] == [*layers]


@pytest.mark.parametrize("mine", ["", "model.", "base_model.model.model."])
@pytest.mark.parametrize("theirs", ["", "model.", "bert.model."])
def test_prefixes(mine: str, theirs: str) -> None:
    rest = [f"layers.{i}.{block}" for i in (0, 1, 10) for block in BLOCKS]
    model = base([f"{theirs}{name}.weight" for name in rest])
    if mine and theirs and not (mine.endswith(theirs) or theirs.endswith(mine)):
        with pytest.raises(MismatchError):
            found([f"{mine}{name}" for name in rest], model)
        return
    layers = [f"{mine}{name}" for name in rest]
    assert found(layers, model) == [f"{theirs}{name}.weight" for name in rest]


WRAPPED = ("model.language_model.", "language_model.model.", "model.text_model.")


@pytest.mark.parametrize("mine", [*WRAPPED, "base_model.model.model.language_model."])
@pytest.mark.parametrize("theirs", ["", "model.", *WRAPPED])
@pytest.mark.parametrize("flat", [False, True])
def test_the_text_half_of_a_multimodal_model(mine: str, theirs: str, flat: bool) -> None:
    rest = [f"layers.{i}.{block}" for i in (0, 1, 10) for block in BLOCKS]
    weights = [f"{theirs}{name}.weight" for name in rest] + ["lm_head.weight"]
    layers = [*(f"{mine}{name}" for name in rest), "lm_head"]
    written = [name.replace(".", "_") for name in layers] if flat else layers
    assert found(written, base(weights)) == weights


@pytest.mark.parametrize(
    "tower",
    ["model.vision_tower.vision_model.encoder.", "model.visual.", "vision_model.", "decoder."],
)
def test_another_half_is_no_wrapper(tower: str) -> None:
    model = base([f"model.layers.0.{block}.weight" for block in BLOCKS])
    text = [f"model.language_model.layers.0.{block}" for block in BLOCKS]
    with pytest.raises(MismatchError, match=r"1 of 4 .* no place"):
        found([*text, f"{tower}layers.0.{BLOCKS[0]}"], model)
    with pytest.raises(MismatchError, match="no place"):
        found([f"{tower}layers.0.{block}" for block in BLOCKS], model)


GRAPHS = {
    "language model": (("input_ids",), "logits"),
    "text encoder": (("input_ids",), "last_hidden_state"),
    "decoder": (("input_ids", "encoder_hidden_states"), "logits"),
    "image model": (("pixel_values",), "last_hidden_state"),
    "UNet": (("sample", "encoder_hidden_states"), "out_sample"),
}
HALVES = {
    "model.vision_tower.vision_model.": {"image model"},
    "model.audio_tower.": {"image model"},
    "model.language_model.": {"language model", "text encoder", "decoder"},
    "text_model.": {"language model", "text encoder", "decoder"},
    "model.encoder.": {"language model", "text encoder", "image model"},
    "model.decoder.": {"language model", "decoder", "UNet"},  # it reads an encoder's states too
}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_half_without_its_name(graph: str, half: str, flat: bool) -> None:
    given, result = GRAPHS[graph]
    rest = [f"layers.0.{block}" for block in BLOCKS]
    weights = [f"{name}.weight" for name in rest]
    layers = [f"{half}{name}" for name in rest]
    written = [name.replace(".", "_") for name in layers] if flat else layers
    model = base(weights, given=given, result=result)
    if graph in HALVES[half]:
        assert found(written, model) == weights
    else:
        with pytest.raises(MismatchError, match="no place"):
            found(written, model)
    named = base([f"{name}.weight" for name in layers], given=given, result=result)
    assert found(written, named) == [f"{name}.weight" for name in layers]


def test_only_whole_wrappers_are_dropped() -> None:
    with pytest.raises(MismatchError, match="no place"):
        found(["model.model_a.proj"], base(["language_model.a.proj.weight"]))


def test_one_rule_must_serve_every_layer() -> None:
    model = base(["encoder.layers.0.q.weight", "decoder.layers.0.q.weight"])
    with pytest.raises(MismatchError, match="more than one way"):
        found(["layers.0.q"], model)
    assert found(["decoder.layers.0.q"], model) == ["decoder.layers.0.q.weight"]


def test_a_number_is_never_dropped() -> None:
    with pytest.raises(MismatchError):
        found(["model.layers.5.proj"], base(["proj.weight"]))


def test_only_whole_modules_are_dropped() -> None:
    with pytest.raises(MismatchError, match="no place"):
        found(["proj"], base(["mlp.o_proj.weight"]))
    with pytest.raises(MismatchError, match="no place"):
        found(["mlp.o_proj"], base(["proj.weight"]))


def test_three_missing_layers_are_shown_with_their_nearest() -> None:
    model = base([f"model.layers.0.{block}.weight" for block in BLOCKS])
    layers = [f"model.layers.{i}.{block}" for block in BLOCKS for i in (0, 1, 2, 3)]
    with pytest.raises(MismatchError) as error:
        found(layers, model)
    text = str(error.value)
    assert "9 of 12" in text
    for block in BLOCKS:
        assert f"model.layers.1.{block} (nearest" in text
    assert "and 6 more" in text
    assert "model.layers.2" not in text
    assert "nearest: model.layers.0.self_attn.q_proj" in text
    assert "wrong base model?" in text


def fused(path: Path, *, turned: bool = False) -> np.ndarray:
    """q [8, 6], k and v [4, 6] as one MatMul, as onnxruntime-genai makes it."""
    w = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    node = helper.make_node(
        "MatMul", ["x", "w"], ["y"], name="/model/layers.0/attn/qkv_proj/MatMul"
    )
    if turned:
        node = helper.make_node("Gemm", ["x", "model.layers.0.qkv_proj.weight"], ["y"], transB=1)
    graph = helper.make_graph(
        [node],
        "fused",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(w if turned else np.ascontiguousarray(w.T), node.input[1])],
    )
    imports = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return w


SHAPES = {"q": (8, 6), "k": (4, 6), "v": (4, 6)}


@pytest.mark.parametrize("parts", ["qkv", "qv", "k", "v"])
@pytest.mark.parametrize("form", ["branch", "merged"])
@pytest.mark.parametrize("turned", [False, True])
def test_q_k_and_v_in_one_weight(tmp_path: Path, turned: bool, form: str, parts: str) -> None:
    w = fused(tmp_path / "base.onnx", turned=turned).astype(np.float64)
    scope = "model.layers.0." + ("" if turned else "self_attn.")
    layers = {f"{scope}{part}_proj": SHAPES[part] for part in parts}
    adapter = tiny.adapter("lora", layers=layers)
    for part in parts:
        rows = {"q": slice(0, 8), "k": slice(8, 12), "v": slice(12, 16)}[part]
        w[rows] += adapter[f"{scope}{part}_proj"].dense()
    export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out", form=form)
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    session = ort.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ w.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shapes", [{"q": (9, 6)}, {"k": (6, 6)}, {"q": (8, 6), "k": (2, 6)}])
def test_a_third_that_does_not_fit_a_fused_weight(
    tmp_path: Path, shapes: dict[str, tuple[int, int]]
) -> None:
    fused(tmp_path / "base.onnx")
    layers = {f"model.layers.0.self_attn.{part}_proj": shape for part, shape in shapes.items()}
    with pytest.raises(MismatchError):
        export_onnx(tiny.adapter("lora", layers=layers), tmp_path / "base.onnx", tmp_path / "out")


def test_granites_names_for_gate_up_and_down() -> None:
    names = [f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    layers = [f"model.layers.0.shared_mlp.{part}_linear" for part in ("input", "output")]
    matches = match_layers(layers, find_sites(base(names)))
    found = [[site.source.name for site in matches[layer]] for layer in layers]
    assert found == [names[:2], names[2:]]


def test_the_exporters_own_scopes_come_first() -> None:
    names = ["val_12", "model.embed_tokens.weight"]
    model = base(names, scopes=["model.layers.0.self_attn.q_proj", "lm_head"])
    assert found(["model.layers.0.self_attn.q_proj", "lm_head"], model) == names
    with pytest.raises(MismatchError):
        found(["model.embed_tokens"], model)


def test_two_weights_of_one_name_are_refused() -> None:
    model = base(["w1", "w2"], node="/model/proj/MatMul_{}")
    with pytest.raises(MismatchError, match="more than one way"):
        found(["model.proj"], model)


def test_a_model_without_layers() -> None:
    empty = helper.make_graph([], "g", [], [], [])
    with pytest.raises(MismatchError, match="no MatMul, Gemm or Conv"):
        found(["a"], ir.from_proto(helper.make_model(empty)))


def test_crop_only_where_the_source_asks_for_it(tmp_path: Path) -> None:
    from dataclasses import replace

    from kronq.model.adapter import Origin

    tiny.build(tmp_path / "base.onnx")
    adapter = replace(tiny.adapter("cropped"), origin=Origin("peft"))
    with pytest.raises(MismatchError, match="another shape"):
        export_onnx(adapter, tmp_path / "base.onnx", tmp_path / "out")


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [("model.", "model."), ("", "model."), ("model.language_model.", "model.")],
)
def test_the_time_of_matching_is_linear(mine: str, theirs: str) -> None:
    """Each layer was compared with every site: 5,000 took 15 s."""
    rest = [f"layers.{i}.{block}" for i in range(2000) for block in BLOCKS[:2]]
    sites = find_sites(base([f"{theirs}{name}.weight" for name in rest]))
    begun = time.process_time()
    matches = match_by_name([f"{mine}{name}" for name in rest], sites)
    assert time.process_time() - begun < 3
    assert all(match.how == "name" for match in matches.values())
