"""``kronq quantize`` with text: ``--calibration``, and ``--method tuned``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kronq as library
from tests.cli.command import Kronq

pytest.importorskip("torch")

from tests.quantization.distill.test_tune import EXAMPLES, SIZE, trained


@pytest.fixture
def kronq(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    library.convert(trained("kron"), tmp_path / "trained", to="peft")
    lines = [json.dumps({"prompt": e.prompt, "answer": e.choices[0].strip()}) for e in EXAMPLES]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_calibrated(kronq: Kronq, folder: Path, tiny_base: Path) -> None:
    """The report has a smaller activation error, in as many bytes.

    A calibrated file also tells the base it was calibrated with, some 60 bytes: in a file of 1.4 KB
    that pays at few bits only.
    """
    size = 1400
    asked = ("quantize", folder / "trained", "--size", size, "--dry-run", "--json")
    text = ("--calibration", folder / "text.jsonl", "--base", tiny_base, "--cache", folder / "c")
    found = kronq(*asked, *text)
    assert found.code == 0, found.err
    plain = kronq(*asked, *text, "--metric", "plain").json()["total"]
    total = found.json()["total"]
    assert total["activation_error"] < plain["activation_error"]
    assert total["relative_error"] > plain["relative_error"]
    assert max(total["bytes"], plain["bytes"]) <= size


def test_tuned(kronq: Kronq, folder: Path, tiny_hf: Path) -> None:
    out = folder / "a.safetensors"
    asked = ("quantize", folder / "trained", "-o", out, "--method", "tuned")
    text = ("--calibration", folder / "text.jsonl", "--hf-model", tiny_hf)
    assert "--bpw or --size" in kronq.refuses(*asked, *text)
    assert "--calibration FILE" in kronq.refuses(*asked, "--size", SIZE)
    found = kronq(*asked, *text, "--size", SIZE, "--steps", 3, "--seed", 1)
    assert found.code == 0, found.err
    assert out.stat().st_size <= SIZE
    assert "method tuned" in kronq("inspect", out).out
