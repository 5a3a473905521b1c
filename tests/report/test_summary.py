"""Summary of an adapter from its headers alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.model.adapter import Adapter
from kronq.report.summary import summarize
from tests import adapters


def test_summarizes_a_terabyte_without_reading_it(tmp_path: Path) -> None:
    """A sparse file: it has a size but no bytes, and reading it would take an hour."""
    layer = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    header: dict[str, object] = {}
    end, side, rank = 0, 2**22, 2**12
    for i in range(8):
        for part, shape in (("A", [rank, side]), ("B", [side, rank])):
            start, end = end, end + 4 * rank * side
            header[layer.format(i, part)] = {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [start, end],
            }
    text = json.dumps(header).encode()
    file = tmp_path / "adapter_model.safetensors"
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        try:
            stream.truncate(8 + len(text) + end)
        except OSError:
            pytest.skip("the file system has no sparse files of this size")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "base_model_name_or_path": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    start_time = time.perf_counter()
    summary = summarize(kronq.load(tmp_path))
    assert time.perf_counter() - start_time < 2
    assert summary.parameters == 8 * 2 * side * rank
    assert summary.bytes == file.stat().st_size > 2**40


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_packed_file(tmp_path: Path, bits: int) -> None:
    adapter = kronq.quantize(adapters.adapter(layers=4), kronq.Uniform(bits=bits))
    path = kronq.save(adapter, tmp_path / "a.safetensors")
    summary = summarize(kronq.load(path))
    assert (summary.layers, summary.parameters) == (20, adapter.parameters)
    assert summary.bytes == path.stat().st_size
    assert summary.bits_per_parameter == 8 * summary.bytes / summary.parameters
    assert sum(group.bytes for group in summary.groups) == adapter.nbytes
    assert {group.layers: group.count for group in summary.groups} == {
        f"model.layers.{{0-3}}.{kind}": 4 for kind in adapters.KINDS
    }
    assert summary.recipe is not None
    assert (summary.recipe["method"], summary.recipe["bits"]) == ("balanced", bits)
    lora = next(group for group in summary.groups if group.layers.endswith("lora"))
    assert (lora.a, lora.b, lora.shape, lora.rank, lora.scale) == (
        None, (24, 20), (24, 20), 4, 2.0
    )  # fmt: skip


def test_layers_of_another_rank_or_scale_are_groups_of_their_own() -> None:
    """PEFT's rank_pattern gives one layer of a kind another rank."""
    rng = np.random.default_rng(0)
    layers = {f"layers.{i}.q": adapters.lora(rng, rank=2 if i == 1 else 4) for i in range(4)}
    layers["layers.3.q"] = replace(layers["layers.3.q"], scale=7.0)
    groups = summarize(Adapter(layers)).groups
    assert [(g.layers, g.rank, g.scale) for g in groups] == [
        ("layers.{0,2}.q", 4, 2.0),
        ("layers.1.q", 2, 2.0),
        ("layers.3.q", 4, 7.0),
    ]


def test_a_summary_is_shown_as_a_table(tmp_path: Path) -> None:
    adapter = kronq.quantize(adapters.adapter(layers=2), kronq.Uniform())
    summary = summarize(kronq.load(kronq.save(adapter, tmp_path / "a<b>.safetensors")))
    title, recipe, checksum, head, *_, total = str(summary).splitlines()
    assert title.endswith("a<b>.safetensors: kron adapter (kronq), base maker/base")
    assert recipe.startswith("quantized: method balanced, bits 4, ")
    assert checksum == f"checksum {summary.checksum} is of these contents"
    assert head.startswith("layers")
    assert total.startswith("total ×10, file")
    assert repr(summary).startswith("Summary(kron adapter (kronq), 10 layers, ")
    assert "a&lt;b&gt;.safetensors" in summary._repr_html_()


def test_a_packed_file_is_summarized_as_its_layers_are(tmp_path: Path) -> None:
    """The file's stacks give what the layers, one by one, give."""
    quantized = kronq.quantize(adapters.adapter(layers=4), bits=3)
    path = kronq.save(quantized, tmp_path / "a.safetensors")
    packed = kronq.load(path)
    apart = replace(packed, layers={name: packed[name] for name in packed})
    assert summarize(packed) == summarize(apart)
    assert (packed.parameters, packed.nbytes) == (apart.parameters, apart.nbytes)
    assert packed.family == apart.family == "kron"
