"""``kronq quantize --each``: a folder of adapters, each into a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import kronq as package
from tests.cli.command import Kronq


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Twelve bare files, as a network generates them."""
    folder = tmp_path / "generated"
    folder.mkdir()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        names = [f"base_model.model.model.layers.{i}.self_attn.o_proj" for i in range(3)]
        save_file(
            {
                f"{name}.lora_{part}.weight": rng.normal(size=shape).astype(np.float16)
                for name in names
                for part, shape in (("A", (4, 40)), ("B", (32, 4)))
            },
            folder / f"{seed}.safetensors",
        )
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@pytest.mark.parametrize("workers", [1, 2])
def test_each_file_is_that_of_one_alone(kronq: Kronq, generated: Path, workers: int) -> None:
    out = generated.parent / "packed"
    flags = ("--each", "--alpha", 8, "--bits", 3, "--workers", workers)
    result = kronq("quantize", generated, "-o", out, *flags)
    assert (result.code, result.err) == (0, "")
    assert "wrote 12 files" in result.out
    assert "all 12" in result.out
    assert names(out) == names(generated)
    for file in out.iterdir():
        adapter = package.load(generated / file.name, alpha=8)
        assert file.read_bytes() == package.pack(package.quantize(adapter, bits=3))


def test_a_bad_file_is_named_and_stops_no_other(kronq: Kronq, generated: Path) -> None:
    (generated / "4.safetensors").write_bytes(b"nothing")
    out = generated.parent / "packed"
    result = kronq("quantize", generated, "--each", "-o", out, "--alpha", 8, "--json")
    assert result.code == 2
    assert "4.safetensors: " in result.err
    assert "1 of 12 adapters failed" in result.err
    told = result.json()
    assert (told["written"], told["failed"]) == (11, 1)
    assert [bool(each["error"]) for each in told["adapters"]].index(True) == 4
    for each in told["adapters"]:
        if not each["error"]:
            assert each["bytes"] == Path(each["output"]).stat().st_size
    assert names(out) == names(generated) - {"4.safetensors"}


def test_what_is_wrong_with_all_is_told_soon(kronq: Kronq, generated: Path) -> None:
    out = generated.parent / "packed"
    result = kronq("quantize", generated, "--each", "-o", out)
    assert (result.code, result.out) == (2, "")
    assert "--alpha 16" in result.err
    assert "the first 10 of 12 adapters failed" in result.err
    assert not out.exists()


def test_outputs_that_exist(kronq: Kronq, generated: Path) -> None:
    out = generated.parent / "packed"
    out.mkdir()
    (out / "7.safetensors").write_bytes(b"mine")
    flags = ("quantize", generated, "--each", "-o", out, "--alpha", 8)
    assert "1 of the outputs exist; found 7.safetensors (hint: --force" in kronq.refuses(*flags)
    assert (out / "7.safetensors").read_bytes() == b"mine"
    assert kronq(*flags, "--force").code == 0
    assert package.load(out / "7.safetensors").recipe is not None


def test_dry_run_and_a_limit_on_the_error(kronq: Kronq, generated: Path) -> None:
    result = kronq("quantize", generated, "--each", "--dry-run", "--alpha", 8, "-v")
    assert (result.code, result.err) == (0, "")
    assert "11.safetensors" in result.out
    assert names(generated.parent) == {"generated", *names(generated)}
    result = kronq(
        *("quantize", generated, "--each", "--dry-run", "--alpha", 8),
        *("--bits", 2, "--max-error", "1%"),
    )
    assert result.code == 2
    assert "above the limit" in result.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--each", "--report", "r.json"], "--report is for one adapter"),
        (["--workers", "2"], "--workers is for --each"),
        (["--each", "--calibration", "text.txt", "--base", "."], "for one adapter, not for --each"),
    ],
)
def test_options_of_one_adapter(
    kronq: Kronq, generated: Path, arguments: list[str], told: str
) -> None:
    (generated / "text.txt").write_text("text")
    given = [str(generated / a) if a in ("text.txt", ".") else a for a in arguments]
    assert told in kronq.refuses("quantize", generated, "--dry-run", *given)


def test_folders_that_are_no_folders_of_adapters(kronq: Kronq, trained: Path, out: Path) -> None:
    assert "one adapter" in kronq.refuses("quantize", trained, "--each", "-o", out / "packed")
    (out / "empty").mkdir()
    told = kronq.refuses("quantize", out / "empty", "--each", "-o", out / "packed")
    assert "no adapters in this folder" in told
    told = kronq.refuses("quantize", trained.parent, "--each", "-o", out / "a.safetensors")
    assert "a folder is written" in told or "no adapters" in told
