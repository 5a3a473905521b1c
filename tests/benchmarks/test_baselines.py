"""Common contract of baselines: an adapter of the same shape, and the bytes of a real file."""

from __future__ import annotations

import importlib.util

import pytest
import safetensors

import kronq
from benchmarks import baselines
from benchmarks.baselines.baseline import Baseline
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE
from tests import adapters

EVERY = [pytest.param(b, id=b.name) for b in baselines.BASELINES]


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    """Two layers of every kind: LoRA, Kron, whole B, A of two factors, cropped."""
    return adapters.adapter(layers=2)


def run(baseline: Baseline, adapter: Adapter) -> baselines.BaselineFile:
    for package in baseline.packages:
        pytest.importorskip(package)
    return baseline.run(adapter)


@pytest.mark.parametrize("baseline", EVERY)
def test_a_baseline_keeps_the_adapters_shape(baseline: Baseline, adapter: Adapter) -> None:
    made = run(baseline, adapter)
    report = kronq.measure(adapter, made.adapter)  # which refuses other layers and shapes
    assert 0 < report.total.relative_error < 1
    assert made.adapter.recipe is None


@pytest.mark.parametrize("baseline", EVERY)
def test_safetensors_reads_the_file(baseline: Baseline, adapter: Adapter) -> None:
    made = run(baseline, adapter)
    tensors = {name: len(entry["data"]) for name, entry in safetensors.deserialize(made.file)}
    assert made.payload == sum(tensors.values())
    assert made.nbytes > made.payload + 8
    assert {name for key in tensors for name in adapter if name in key} == set(adapter)


@pytest.mark.parametrize("baseline", EVERY)
def test_the_file_holds_all_codes(baseline: Baseline, adapter: Adapter) -> None:
    """Never fewer bytes than the codes of B at one bit, and A in float16."""
    made = run(baseline, adapter)
    if baseline.tool in ("rank", "compeft"):  # which leave most of B out
        return
    a = sum(2 * d.a.parameters for d in adapter.values() if d.a is not ONE)
    b = sum(d.b.parameters for d in adapter.values())
    assert made.payload >= b // 8 + a


def test_names_are_unique() -> None:
    names = [baseline.name for baseline in baselines.BASELINES]
    assert len(set(names)) == len(names)


def test_a_missing_tool_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert list(baselines.missing()) == [
        "hqq is not compared: no hqq, no torch (pip install 'kronq[baselines]')"
    ]
    assert "hqq" not in {baseline.tool for baseline in baselines.installed()}
