"""Matching by position in bases without names, and by map where that is not certain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from kronq.cli.export import command
from kronq.errors import FormatError, MismatchError
from kronq.model.adapter import Adapter
from kronq.onnx.export import export_onnx
from kronq.onnx.graph.match_by_map import load_mapping
from kronq.onnx.graph.match_table import match_table
from kronq.packed import save
from tests.onnx import tiny_onnx as tiny

SHAPES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (96, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}
FIRST = "model.layers.0."


def adapter(*modules: str, blocks: int = 2) -> Adapter:
    names = [module for module in SHAPES if module.split(".")[1].split("_")[0] in modules]
    layers = {f"model.layers.{i}.{n}": SHAPES[n] for i in range(blocks) for n in names[::-1]}
    return tiny.adapter("lora", layers=layers)


@pytest.fixture(scope="module")
def named(tiny_base: Path) -> Path:
    return tiny_base / "model.onnx"


@pytest.fixture(scope="module")
def nameless(named: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-genai's own graph, with numbers for names as some exporters give them."""
    model = onnx.load(named)
    names: dict[str, str] = {i.name: f"onnx::{n}" for n, i in enumerate(model.graph.initializer)}
    for n, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{n}"
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    path = tmp_path_factory.mktemp("nameless") / "model.onnx"
    onnx.save(model, path)
    return path


def nodes(adapter: Adapter, base: Path, mapping: dict[str, str] | None = None) -> dict[str, str]:
    """Layer → the index of its node, which is the same in both graphs."""
    order = {n.name: i for i, n in enumerate(onnx.load(base).graph.node)}
    table = match_table(adapter, base, mapping)
    return {row.layer: order[row.places[0].node] for row in table.rows if row.places}


def test_what_is_certain_is_found_and_told(tmp_path: Path, named: Path, nameless: Path) -> None:
    """q and o have one shape; q, unlike o, shares its input with two others."""
    mine = adapter("q", "o", "down")
    assert nodes(mine, nameless) == nodes(mine, named)
    assert len(nodes(mine, nameless)) == 6
    report = export_onnx(mine, nameless, tmp_path / "out", verify=False)
    assert report.matched == {"position": 6}


@pytest.mark.parametrize("modules", ["k", "kv", "gate", "qkvogatupdown"])
def test_what_is_not_certain_is_refused_with_both(
    tmp_path: Path, nameless: Path, modules: str
) -> None:
    mine = adapter(
        *(
            ["q", "k", "v", "o", "gate", "up", "down"]
            if "q" in modules
            else [modules]
            if modules == "gate"
            else modules
        )
    )
    with pytest.raises(MismatchError, match=r"more than one way.* or .*mapping of") as error:
        export_onnx(mine, nameless, tmp_path / "out")
    assert "k_proj" in str(error.value) or "gate_proj" in str(error.value)
    assert "down_proj" not in str(error.value)


@pytest.mark.parametrize("by", ["node", "weight"])
def test_one_layer_of_a_kind_settles_all(named: Path, nameless: Path, by: str) -> None:
    mine = adapter("q", "k", "v", "o", "gate", "up", "down")
    wanted = nodes(mine, named)
    graph = onnx.load(nameless).graph.node
    mapping = {}
    for module in ("self_attn.k_proj", "mlp.up_proj"):
        node = graph[wanted[FIRST + module]]
        mapping[FIRST + module] = node.name if by == "node" else node.input[1]
    assert nodes(mine, nameless, mapping) == wanted


OPT = {"fc1": (96, 64), "fc2": (64, 96), "self_attn.out_proj": (64, 64)}
GPT_J = {"attn.out_proj": (64, 64), "mlp.fc_in": (96, 64), "mlp.fc_out": (64, 96)}


@pytest.mark.parametrize(
    "layers",
    [
        {f"model.decoder.layers.{i}.fc2": (64, 96) for i in range(2)},
        {
            f"model.decoder.layers.{i}.{name}": shape
            for i in range(2)
            for name, shape in OPT.items()
        },
        {f"transformer.h.{i}.{name}": shape for i in range(2) for name, shape in GPT_J.items()},
    ],
    ids=["OPT fc2", "OPT", "GPT-J"],
)
def test_shapes_that_fit_are_no_proof_in_a_base_with_names(
    tmp_path: Path, named: Path, layers: dict[str, tuple[int, int]]
) -> None:
    mine = tiny.adapter("lora", layers=layers)
    with pytest.raises(MismatchError, match=r"wrong base model\?") as error:
        export_onnx(mine, named, tmp_path / "out")
    text = str(error.value)
    assert f"{len(layers)} of {len(layers)} adapted layers have no place" in text
    assert text.count("(nearest") <= 3
    assert {row.how for row in match_table(mine, named).rows} == {"missing"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("style", ["{op}_{n}", "node_{op}_{n}", "node_linear_{n}", "", "{n}"])
def test_names_that_exporters_make_up_are_none(
    tmp_path: Path, named: Path, nameless: Path, style: str
) -> None:
    model = onnx.load(nameless)
    for n, node in enumerate(model.graph.node):
        node.name = style.format(op=node.op_type, n=n)
    onnx.save(model, tmp_path / "model.onnx")
    table = match_table(adapter("q", "o", "down"), tmp_path / "model.onnx")
    assert {row.how for row in table.rows} == {"position"}


def test_a_map_settles_a_kind_in_a_base_with_other_names(named: Path) -> None:
    layers = {f"transformer.h.{i}.mlp.fc_out": (64, 96) for i in range(2)}
    mine = tiny.adapter("lora", layers=layers)
    first = "/model/layers.0/mlp/down_proj/MatMul"
    table = match_table(mine, named, {"transformer.h.0.mlp.fc_out": first})
    assert [row.how for row in table.rows] == ["map", "position"]
    assert table.rows[1].places[0].node == first.replace("0", "1")


def test_fewer_blocks_than_the_base_has_are_not_counted_off(nameless: Path) -> None:
    with pytest.raises(MismatchError, match="no place"):
        export_onnx(adapter("down", blocks=1), nameless, "out")


def test_a_map_is_checked(tmp_path: Path, named: Path) -> None:
    mine = adapter("q")
    layer = FIRST + "self_attn.q_proj"
    wrong = {
        "unknown layer": {"model.layers.7.q_proj": "x"},
        "no linear layer of the base": {layer: "/model/layers.0/attn/q_prj/MatMul"},
        r"another shape; found \[96, 64\]": {layer: "/model/layers.0/mlp/up_proj/MatMul"},
    }
    for message, mapping in wrong.items():
        with pytest.raises(MismatchError, match=message):
            export_onnx(mine, named, tmp_path / "out", mapping=mapping)
    for text in ("[", "[]", '{"a": 1}'):
        (tmp_path / "map.json").write_text(text)
        with pytest.raises(FormatError, match="map"):
            load_mapping(tmp_path / "map.json")


def test_a_map_goes_before_names(tmp_path: Path, named: Path) -> None:
    layer = FIRST + "self_attn.q_proj"
    other = "/model/layers.1/attn/o_proj/MatMul"
    mine = tiny.adapter("lora", layers={layer: (64, 64)})
    report = export_onnx(mine, named, tmp_path / "out", mapping={layer: other}, verify=False)
    assert (report.layers, report.matched) == ({layer: other}, {"map": 1})


def test_a_dry_run_prints_the_table(tmp_path: Path, nameless: Path) -> None:
    file = str(save(adapter("k", "down"), tmp_path / "a.safetensors"))
    arguments = [file, "--base", str(nameless), "--dry-run"]
    told = CliRunner().invoke(command, arguments)
    assert isinstance(told.exception, MismatchError)
    assert all(word in told.stdout for word in ("position", "ambiguous", "MatMul_", " or "))
    table = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).stdout)
    assert table["problem"] == str(told.exception)
    rows = {row["layer"]: row for row in table["rows"]}
    row = rows[FIRST + "self_attn.k_proj"]
    assert [place["shape"] for place in row["candidates"]] == [[32, 64]] * 2
    (tmp_path / "map.json").write_text(json.dumps({row["layer"]: row["candidates"][0]["node"]}))
    settled = CliRunner().invoke(command, [*arguments, "--map", str(tmp_path / "map.json")])
    assert settled.exit_code == 0, settled.output
    assert "ambiguous" not in settled.stdout
    assert np.count_nonzero([" map " in line for line in settled.stdout.splitlines()]) == 1
