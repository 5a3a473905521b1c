"""Small files that ask for much are refused before it is made, and limits can be raised."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import kronq
from kronq import limits
from kronq.errors import ArgumentError, FormatError
from kronq.limits import Limit
from kronq.onnx.slots.slot_spec import SPEC, SlotSpec
from kronq.packed import pack_adapter
from tests import adapters
from tests.attacks.hostile import bounded_cost, change_manifest, with_text
from tests.paths import ROOT

LIMITS = [limit for limit in vars(limits).values() if isinstance(limit, Limit)]


def refuse(file: Path, data: bytes, reason: str) -> None:
    file.write_bytes(data)
    with bounded_cost(file), pytest.raises(FormatError, match=reason) as error:
        kronq.load(file)
    assert len(str(error.value)) < 1000


def many(part: str, around: str = '{"version":1,"groups":[@]}') -> str:
    return around.replace("@", ",".join([part] * 300_000))


GROUP = '{"version":1,"groups":[{"layers":["a"],"shape":[1,1],"scale":[@]}]}'
MANIFESTS = {
    "empty groups": (many("{}"), r"bad manifest at 'groups\.0"),
    "numbers": (many("1"), r"bad manifest at 'groups\.0"),
    "fields": (json.dumps({str(i): 1 for i in range(5000)}), "too many fields"),
    "layers": (
        many("1", '{"version":1,"groups":[{"layers":[@]}]}'),
        r"bad manifest at 'groups\.0\.layers\.0",
    ),
    "scales": (many('""', GROUP), r"bad manifest at 'groups\.0\.scale"),
    "size": (" " * 9_000_000, "too many bytes in the manifest; found 9,000,000"),
}


@pytest.mark.parametrize(("manifest", "reason"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_fails_at_its_first_error(tmp_path: Path, manifest: str, reason: str) -> None:
    refuse(tmp_path / "a.safetensors", with_text(manifest), reason)


def test_a_short_template_of_many_layers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = {f"l.{i}": adapters.lora(rng, rank=8, rows=64, cols=64) for i in range(2)}
    data = pack_adapter(kronq.quantize(kronq.Adapter(layers), kronq.Compact(bpw=4)))

    def change(manifest: dict) -> None:
        group = manifest["groups"][0]
        group.update(layers=["l.{0-99999}"], shape=[1, 1], scale=1.0)
        group["B1"]["shape"] = group["B2"]["shape"] = [1, 1]

    refuse(tmp_path / "a.safetensors", change_manifest(data, change), "too many layers for each")


RANK = {
    "lora": {
        "base_model.model.l.lora_A.weight": (5000, 1),
        "base_model.model.l.lora_B.weight": (1, 5000),
    },
    "lokr": {"l.lokr_w1": (2, 2), "l.lokr_w2_a": (1, 5000), "l.lokr_w2_b": (5000, 1)},
    "factors": {"l.A": (2, 2), "l.B1": (1, 5000), "l.B2": (5000, 1)},
}


@pytest.mark.parametrize("format", RANK)
def test_a_rank_beyond_all_reason(tmp_path: Path, format: str) -> None:
    file = tmp_path / "adapter_model.safetensors"
    tensors = {name: np.ones(shape, np.float16) for name, shape in RANK[format].items()}
    save_file(tensors, file, {"alpha": "1"})
    source = file
    if format == "lora":
        config = {"peft_type": "LORA", "r": 5000, "lora_alpha": 1}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        source = tmp_path
    else:
        source = file.rename(tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match="l: too many rank components; found 5,000"):
        kronq.load(source)


def hada(rank: int, rows: int) -> dict[str, tuple[int, ...]]:
    shapes = {"a": (rows, rank), "b": (rank, rows)}
    return {f"l.hada_w{i}_{side}": shape for i in (1, 2) for side, shape in shapes.items()}


EXPANSIONS = {
    "a wide kernel": (
        {
            "l.lokr_w1": (1, 1),
            "l.lokr_w2_a": (1, 1),
            "l.lokr_w2_b": (1, 1),
            "l.lokr_t2": (1, 1, 40, 40),
        },
        "l: too many positions in a kernel; found 1,600",
    ),
    "a core of many channels": (
        {
            "l.lora_up.weight": (1, 1, 1, 1),
            "l.lora_down.weight": (1, 300_000, 1, 1),
            "l.lora_mid.weight": (1, 1, 30, 34),
        },
        "too many values when expanded to plain factors; found 306,000,000",
    ),
    "a product of ranks": (hada(64, 35_000), "too many values when expanded; found 286,720,000"),
    "a product beyond all rank": (hada(65, 25_000), "too many rank components; found 4,225"),
}


@pytest.mark.parametrize("kind", EXPANSIONS)
def test_factors_that_multiply_into_huge_ones(tmp_path: Path, kind: str) -> None:
    shapes, reason = EXPANSIONS[kind]
    file = tmp_path / "a.safetensors"
    save_file({name: np.ones(shape, np.float16) for name, shape in shapes.items()}, file)
    with bounded_cost(file), pytest.raises(FormatError) as error:
        kronq.load(file)
    assert all(part in str(error.value) for part in reason.split("; "))


def test_a_packed_rank_beyond_all_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    adapter = kronq.Adapter({"l": adapters.lora(rng, rank=5000, rows=1, cols=1)})
    file = tmp_path / "a.safetensors"
    refuse(file, pack_adapter(kronq.quantize(adapter, kronq.Float16())), "too many rank components")
    monkeypatch.setenv("KRONQ_MAX_RANK", "5000")
    assert kronq.load(file)["l"].b.rank == 5000


def test_dimensions_of_slots(tmp_path: Path) -> None:
    group = {"name": "l", "d_in": 4, "lead": 300_000_000, "members": [{"layer": "l", "d_out": 4}]}
    (tmp_path / SPEC).write_text(json.dumps({"version": 1, "groups": [group]}))
    with bounded_cost(), pytest.raises(FormatError, match="l: too many dimensions"):
        SlotSpec.read(tmp_path)
    for wrong in ({"lead": -1}, {"d_in": 2**40}, {"members": [{"layer": "l", "d_out": 0}]}):
        (tmp_path / SPEC).write_text(json.dumps({"version": 1, "groups": [group | wrong]}))
        with pytest.raises(FormatError, match="damaged"):
            SlotSpec.read(tmp_path)
    (tmp_path / SPEC).write_text(many("{}"))
    with bounded_cost(tmp_path / SPEC), pytest.raises(FormatError, match="damaged"):
        SlotSpec.read(tmp_path)


def test_limits_are_raised_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = limits.TENSORS
    with pytest.raises(FormatError, match="KRONQ_MAX_TENSORS=200001 allows"):
        limit.check(200_001, "a")
    monkeypatch.setenv(limit.variable, "200001")
    limit.check(200_001, "a")
    for wrong in ("", "-1", "1e9", "many", "²"):
        monkeypatch.setenv(limit.variable, wrong)
        with pytest.raises(ArgumentError, match="KRONQ_MAX_TENSORS is no number"):
            limit.check(1, "a")


def test_every_limit_is_documented() -> None:
    page = (ROOT / "SECURITY.md").read_text("utf-8")
    stated = re.findall(r"`(KRONQ_MAX_\w+)` \| \D*([\d,]+)", page)
    assert stated == [(limit.variable, f"{limit.default:,}") for limit in LIMITS]
