"""Timings in turns, and all figures of a benchmark."""

from __future__ import annotations

import math
from itertools import count

import pytest

from kronq import export_onnx, quantize, save
from kronq.genai.bench.timed_model import Workload, open_timed_model
from kronq.genai.bench.timing import Sample, Spread, run_in_turns, time_ratio, tokens_per_second
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import ExecutionTarget
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter
from tests.cli.conftest import kronq
from tests.evaluate.tiny import tiny_adapter

__all__ = ["kronq"]

CPU = "CPUExecutionProvider"
FEW = ("--prompt-tokens", 8, "--new-tokens", 4, "--rounds", 3, "--threads", 1)


def test_variants_run_in_turns_and_the_first_round_does_not_count():
    ran = []
    number = count()

    def variant(name):
        def run():
            ran.append(name)
            return Sample(next(number), (1.0,))

        return run

    shown = []
    rounds = run_in_turns(
        {"a": variant("a"), "b": variant("b")}, 3, lambda done, total: shown.append((done, total))
    )
    assert "".join(ran) == "ba" + "ab" + "ba" + "ab"
    assert [found["a"].prefill for found in rounds] == [2, 5, 6]
    assert shown == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_ratio_is_taken_within_each_round():
    """The machine is twice as slow in the second round, which the ratio does not see."""
    rounds = [
        {"a": Sample(0.2, (3.0, 3.0, 99.0)), "b": Sample(0.1, (2.0, 2.0, 2.0))},
        {"a": Sample(0.4, (6.0, 6.0, 6.0)), "b": Sample(0.2, (4.0, 0.0, 4.0))},
    ]
    assert time_ratio(rounds, "a", "b", lambda sample: sample.step) == Spread(1.5, 1.5, 1.5, 2)
    assert time_ratio(rounds, "a", "b", lambda sample: sample.prefill) == Spread(2, 2, 2, 2)
    assert tokens_per_second(rounds, "b", lambda sample: sample.prefill, 10).median == 75


def test_a_spread_is_from_the_10th_to_the_90th_percentile():
    assert Spread.of(range(101)) == Spread(50, 10, 90, 101)


def test_a_text_is_timed_token_by_token_and_never_ends_early(tiny_base):
    model = open_timed_model(find_model(tiny_base), ExecutionTarget(threads=1))
    ticks = count()
    sample = model.run(Workload(8, 40), clock=lambda: float(next(ticks)))
    assert sample == Sample(1.0, (1.0,) * 39)


@pytest.fixture(scope="module")
def exported(tiny_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "out"
    export_onnx(tiny_adapter(), tiny_base, out, form="branch", verify=False)
    return out


@pytest.mark.slow
def test_the_report_has_all_figures(kronq, exported, tiny_base):
    report = kronq("bench", exported, "--base", tiny_base, *FEW, "--json").json()
    both = (report["with_adapter"], report["without"])
    figures = ("prefill_tokens_per_second", "decode_tokens_per_second", "first_token_ms")
    spreads = [report[name] for name in ("decode_ratio", "prefill_ratio", "load_ms", "peak_mb")]
    spreads += [side[name] for side in both for name in (*figures, "load_ms", "peak_mb")]
    for spread in spreads:
        assert spread["n"] == 3
        assert 0 < spread["low"] <= spread["median"] <= spread["high"] < math.inf
    assert (report["swap_ms"], report["activate_ms"]) == (None, None)
    assert (report["provider"], report["threads"], report["rounds"]) == (CPU, 1, 3)
    assert both[0]["nodes"][CPU] > both[1]["nodes"][CPU]
    assert report["machine"]["cores"] >= 1


@pytest.fixture(scope="module")
def slotted(tiny_base, tmp_path_factory):
    """The tiny llama with slots, and a packed adapter for them."""
    folder = tmp_path_factory.mktemp("slots") / "out"
    export_onnx(tiny_adapter(), tiny_base, folder, form="slots", verify=False)
    save(quantize(tiny_adapter(), bits=4), folder / "small.safetensors")
    return folder


@pytest.mark.slow
def test_a_model_with_slots_is_its_own_base_or_is_given_one(kronq, slotted, tiny_base):
    file = slotted / "small.safetensors"
    report = kronq("bench", slotted, "--adapter", file, *FEW, "--json").json()
    assert report["without"]["model"] == report["with_adapter"]["model"]
    assert (report["without"]["adapter"], report["with_adapter"]["adapter"]) == (None, str(file))
    assert 0 < report["activate_ms"]["median"] < report["swap_ms"]["median"] < math.inf
    assert "swap, ms" in kronq("bench", slotted, "--adapter", file, *FEW).out
    beside = kronq("bench", slotted, "--adapter", file, "--base", tiny_base, *FEW, "--json").json()
    assert beside["without"]["model"] == str(tiny_base / "model.onnx")


def test_one_model_in_memory_answers_with_and_without_an_adapter(slotted):
    plain = open_timed_model(find_model(slotted), ExecutionTarget(threads=1))
    file = write_onnx_adapter(tiny_adapter(), slotted, slotted / "a.onnx_adapter")
    adapted = plain.with_adapter(file)
    assert adapted.text_model is plain.text_model
    assert (plain.adapters, len(adapted.run(Workload(4, 3)).steps)) == (None, 2)


def test_refused_benchmarks(kronq, exported, slotted, tiny_base, tmp_path):
    assert "give --base for the forms" in kronq.refuses("bench", exported)
    both = ("--base", tiny_base)
    assert "no slots" in kronq.refuses("bench", exported, *both, "--adapter", tmp_path)
    assert "model's context" in kronq.refuses("bench", exported, *both, "--prompt-tokens", 60)
    assert "too few tokens" in kronq.refuses("bench", exported, *both, "--new-tokens", 1)
    assert "0 rounds" in kronq.refuses("bench", exported, *both, "--rounds", 0)
    assert "no such file" in kronq.refuses("bench", tmp_path / "x", *both)
    assert "no slots" in kronq.refuses("bench", tiny_base, "--adapter", tmp_path, *FEW)
    (tmp_path / "a.onnx_adapter").write_bytes(b"no")
    broken = ("bench", slotted, "--adapter", tmp_path / "a.onnx_adapter", *FEW)
    assert "not an adapter for slots" in kronq.refuses(*broken)
