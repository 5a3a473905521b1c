"""``kronq calibrate``, and the calibration options of all verbs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kronq.calibration.calibration_summary import summarize_calibration
from kronq.cli.calibration_options import (
    CalibrationOptions,
    check_calibration,
    collect_moments,
    moments_for_quantizing,
)
from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.packed import save
from kronq.readers.load import load
from kronq.writers.convert import convert
from tests import adapters
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter
from tests.paths import EXAMPLE


@pytest.fixture
def kronq(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    adapter = Adapter({"first": adapters.lora(np.random.default_rng(0))})
    return save(adapter, tmp_path / "small.safetensors")


REFUSALS = {
    "--metric input": "add --calibration FILE",
    "--metric two-sided --hf-model hf": "add --calibration FILE",
    "--hf-model hf": "--hf-model does nothing here",
    "--calibration-tokens 100": "--calibration-tokens does nothing here",
    "--base base": "--base does nothing here",
    "--calibration notes.txt": "add --base DIR",
    "--calibration notes.txt --hf-model hf": "--metric two-sided --hf-model DIR",
    "--calibration notes.txt --metric two-sided --base base": "add --hf-model DIR",
    "--calibration notes.txt --metric plain": "add --base DIR",
    "--calibration nowhere.txt --base base": "no such file",
    "--calibration notes.txt --base nowhere": "no such file",
    "--calibration notes.txt --metric two-sided --hf-model base": "no config.json",
    "": "add --calibration FILE",
}


@pytest.mark.parametrize("options", REFUSALS)
def test_missing_options_are_refused_with_a_hint(
    kronq: Kronq, small: Path, options: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.calibration import tokens_onnx

    monkeypatch.chdir(tmp_path)
    tokens_onnx.build(tmp_path / "base" / "model.onnx")
    (tmp_path / "notes.txt").write_text("Some text.")
    line = kronq.refuses("calibrate", small, "--cache", tmp_path / "cache", *options.split())
    assert REFUSALS[options] in line


def test_a_base_may_have_another_use() -> None:
    check_calibration(CalibrationOptions(base="base"), base_used=True)


def test_the_metric_decides_which_moments_quantizing_uses() -> None:
    moments = SecondMoments({}, 0)
    plain = CalibrationOptions(calibration="notes.txt", base="base", metric="plain")
    check_calibration(plain)
    assert moments_for_quantizing(plain, moments) is None, "moments are for the report alone"
    given = CalibrationOptions(calibration="notes.txt", base="base")
    assert given.effective_metric == "input"
    assert moments_for_quantizing(given, moments) is moments
    assert CalibrationOptions().effective_metric == "plain"
    assert collect_moments(CalibrationOptions(), Adapter({})) is None


def test_directions_of_known_moments() -> None:
    even = LayerMoments(np.eye(8, dtype=np.float32) * 3)
    one = LayerMoments(np.diag([8.0, 0, 0, 0]).astype(np.float32), np.eye(2, dtype=np.float32))
    summary = summarize_calibration(SecondMoments({"a": even, "b": one}, 10))
    inputs = [group.inputs for group in summary.groups]
    assert [moment.directions for moment in inputs] == pytest.approx([8, 1])
    assert [moment.mean_square for moment in inputs] == pytest.approx([3, 2])
    assert summary.groups[0].outputs is None
    assert summary.groups[1].outputs is not None
    assert summary.groups[1].outputs.width == 2


@pytest.mark.slow
def test_a_real_base_is_read_once_and_then_the_cache(
    kronq: Kronq, smollm_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("Bees make honey.\n\nPlants take in carbon dioxide.")
    whole = load(EXAMPLE)  # of which two blocks are read quickly
    part = {name: delta for name, delta in whole.items() if re.search(r"layers\.[01]\.", name)}
    small = save(Adapter(part), tmp_path / "small.safetensors")
    words = ["calibrate", small, "--calibration", notes, "--base", smollm_base]
    words += ["--cache", tmp_path / "cache"]
    found = kronq(*words)
    assert (found.code, found.err) == (0, "")
    assert "model.layers.{0-1}.mlp.down_proj ×2" in found.out
    assert found.out.strip().endswith("14 layers, 11 tokens of notes.txt")
    monkeypatch.setattr("kronq.calibration.input_moments.open_exposed", None)
    again = kronq(*words, "--json").json()
    assert again["tokens"] == 11
    assert {group["inputs"]["width"] for group in again["groups"]} == {576, 1536}


def test_an_error_is_a_kronq_error() -> None:
    with pytest.raises(KronqError, match="no base"):
        check_calibration(CalibrationOptions(calibration="notes.txt"))


def test_max_error_is_that_of_the_calibration(
    kronq: Kronq, tiny_base: Path, tmp_path: Path
) -> None:
    """Alone it finds a smaller file than by ΔW; beside a size it is a check of the same error."""
    small, notes = tmp_path / "lora", tmp_path / "notes.txt"
    convert(tiny_adapter(), small, to="lora")
    notes.write_text("bees make honey\n\nplants take in carbon dioxide\n\n")
    asked = ("quantize", small, "--max-error", "10%", "--dry-run", "--json")
    text = ("--calibration", notes, "--base", tiny_base, "--cache", tmp_path / "cache")
    found = kronq(*asked, *text).json()["total"]
    assert 0.09 < found["activation_error"] <= 0.1 < found["relative_error"]
    assert found["bytes"] < kronq(*asked).json()["total"]["bytes"]
    checked = kronq(*asked, *text, "--bits", 2)
    assert checked.code == 1
    error = checked.json()["total"]["activation_error"]
    assert f"the activation error is {100 * error:.3g} %, above 10 %" in checked.err
    plain = kronq(*asked, *text, "--metric", "plain").json()["total"]
    assert plain["relative_error"] <= 0.1
