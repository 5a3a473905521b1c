"""Widths for single layers: the bits go where they are asked for, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.packed import pack_adapter
from kronq.quantization.mixed.native import native
from tests import adapters
from tests.adapters import relative
from tests.paths import EXAMPLE


def assert_same_numbers(one: Delta, other: Delta) -> None:
    assert one.scale == other.scale
    for left, right in zip(one.matrices, other.matrices, strict=True):
        assert left.dtype == right.dtype
        assert np.array_equal(left.float32(), right.float32())


@pytest.fixture(scope="module")
def example() -> Adapter:
    return kronq.load(EXAMPLE)


def test_an_override_that_asks_for_the_default_changes_no_number(example: Adapter) -> None:
    plain = native(example, 4)
    same = native(example, 4, overrides={"v_proj": 4})
    for name in example:
        assert_same_numbers(plain[name], same[name])
    assert same.recipe is not None
    assert same.recipe.layer_bits == {"v_proj": 4}


def test_bits_are_spent_on_the_layers_that_match(example: Adapter, tmp_path: Path) -> None:
    """Those have the error of their own width, the others that of the default."""
    found = native(example, 4, overrides={"v_proj": 8})
    narrow, wide = native(example, 4), native(example, 8)
    matching = [name for name in example if "v_proj" in name]
    assert 0 < len(matching) < len(example)

    def error(quantized: Adapter, *, overridden: bool) -> float:
        names = [name for name in example if (name in matching) == overridden]
        return float(np.mean([relative(example[name], quantized[name]) for name in names]))

    assert error(found, overridden=True) == pytest.approx(error(wide, overridden=True), rel=0.1)
    assert error(found, overridden=False) == pytest.approx(error(narrow, overridden=False), rel=0.1)
    parameters = sum(example[name].b.parameters for name in matching)
    extra = len(pack_adapter(found)) - len(pack_adapter(narrow))
    assert extra == pytest.approx(parameters * (8 - 4) / 8, rel=0.05)
    read = kronq.load(kronq.save(found, tmp_path / "a.safetensors"))
    assert read.recipe is not None
    assert read.recipe.layer_bits == {"v_proj": 8}
    for name in example:
        assert_same_numbers(read[name], found[name])


def test_the_last_expression_that_matches_wins() -> None:
    """16 leaves float16, and every width is allocated to its layers alone."""
    adapter = adapters.adapter(layers=3, kinds=("kron", "lora"))
    found = native(adapter, 4, overrides={"kron$": 8, r"layers\.1\.": 16})
    assert list(found) == list(adapter)
    assert {m.dtype for m in found["model.layers.1.kron"].matrices} == {"float16"}
    names = {8: ["0.kron", "2.kron"], 4: ["0.lora", "2.lora"]}
    for bits, some in names.items():
        part = Adapter({f"model.layers.{n}": adapter[f"model.layers.{n}"] for n in some})
        for name, delta in native(part, bits).items():
            assert_same_numbers(found[name], delta)


def test_progress_counts_every_layer() -> None:
    adapter = adapters.adapter(layers=2)
    calls: list[tuple[int, int]] = []
    native(adapter, overrides={"lora": 2}, progress=lambda *counts: calls.append(counts))
    assert calls == sorted(calls)
    assert calls[-1] == (len(adapter), len(adapter))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nothing": 8}, "matches no layer; found 'nothing'"),
        ({"kron": 7}, "kron: no such width; found 7"),
        ({"(": 8}, r"bad layer expression '\('"),
    ],
    ids=str,
)
def test_overrides_that_mean_nothing_are_refused(overrides: dict[str, int], message: str) -> None:
    with pytest.raises(KronqError, match=message):
        kronq.quantize(adapters.adapter(layers=1), kronq.Native(overrides=overrides))


def test_a_size_has_no_overrides() -> None:
    with pytest.raises(KronqError, match="no widths for single layers"):
        native(adapters.adapter(layers=1), size=5000, overrides={"kron": 8})
