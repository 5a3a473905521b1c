"""LoRA-XS on the command line: R alone, its bases, and what is said without them."""

from __future__ import annotations

from pathlib import Path

import pytest

import kronq as api
from kronq.io import overflow
from tests.cli.command import Kronq
from tests.cores.adapters import total_error, write_base, write_lora_xs
from tests.cores.weights import RANK


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write_lora_xs(tmp_path / "xs")
    return tmp_path / "xs", write_base(tmp_path / "base")


def test_from_the_adapter_to_r_alone_and_back(
    kronq: Kronq, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (xs, base), small, basis = folders, tmp_path / "small.safetensors", tmp_path / "b.safetensors"
    made = kronq("basis", base, "--adapter", xs, "-o", basis, "--json").json()
    assert (made["layers"], made["bytes"]) == (4, basis.stat().st_size)
    result = kronq("quantize", xs, "--basis", basis, "-o", small)
    assert result.code == 0
    assert "LoRA-XS: R alone; needs bases made of" in result.out
    told = kronq("inspect", small, "--json").json()
    assert told["system"] == "LoRA-XS"
    assert told["bases"] == "bases made of a base's weights (n_iter 10, seed 42)"
    assert told["groups"][0]["shape"] == [128, 192]
    assert told["parameters"] == 4 * RANK**2
    assert "LoRA-XS: R alone; needs bases made of" in kronq("inspect", small).out
    card = kronq("card", small).out
    assert "- LoRA-XS: R alone; needs bases made of" in card
    assert 'kronq.load("small.safetensors", basis="BASIS")' in card
    assert kronq("inspect", small, "--basis", base, "--json").json()["bases"] is None
    for to in ("peft", "lora-xs"):
        assert kronq("convert", small, "--to", to, "-o", tmp_path / to, "--basis", basis).code == 0
    delta = {to: load(tmp_path / to) for to in ("peft", "lora-xs")}
    assert total_error(delta["peft"], delta["lora-xs"]) < 1e-6


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_folder_is_the_same_where_memory_is_short(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    xs, base = folders
    small = api.extract_cores(api.load(xs), base)
    for out, kept in (("memory", overflow.KEPT), ("file", 2000)):
        monkeypatch.setattr(overflow, "KEPT", kept)
        api.convert(small, tmp_path / out, to="lora-xs", basis=base, dtype=dtype)
    weights = "adapter_model.safetensors"
    assert (tmp_path / "memory" / weights).read_bytes() == (
        tmp_path / "file" / weights
    ).read_bytes()


def load(path: Path) -> dict[str, object]:
    return {name: delta.dense() for name, delta in api.load(path).items()}


def test_whoever_needs_the_bases_says_which(
    kronq: Kronq, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (xs, base), small = folders, tmp_path / "small.safetensors"
    assert kronq("quantize", xs, "--basis", base, "-o", small).code == 0
    line = kronq.refuses("convert", small, "--to", "peft", "-o", tmp_path / "out")
    assert "R alone; found 4 of 4 layers" in line
    assert "--basis tells where they are" in line
    line = kronq.refuses("convert", small, "--to", "lora-xs", "-o", tmp_path / "out")
    assert "--basis" in line
    line = kronq.refuses("compare", xs, small)
    assert "--basis" in line or "quantized already" in line


def test_without_basis_it_is_a_lora_and_a_note_says_what_would_be_smaller(
    kronq: Kronq, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    xs, base = folders
    small, lora = tmp_path / "small.safetensors", tmp_path / "lora.safetensors"
    result = kronq("quantize", xs, "-o", lora)
    assert "--basis leaves them out" in result.err
    assert kronq("inspect", xs).out.splitlines()[1] == "trained by LoRA-XS"
    result = kronq("quantize", xs, "--basis", base, "-o", small)
    assert "note" not in result.err
    assert small.stat().st_size < lora.stat().st_size / 2


def test_options_that_do_not_go_together(
    kronq: Kronq, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    xs, base = folders
    out = tmp_path / "b.safetensors"
    assert "--rank, or --adapter" in kronq.refuses("basis", base, "-o", out)
    line = kronq.refuses("basis", base, "--adapter", xs, "--rank", 4, "-o", out)
    assert "the adapter tells the rank" in line
    assert "no layer" in kronq.refuses("basis", base, "--rank", 4, "--only", "nope", "-o", out)
    assert kronq("basis", base, "--rank", 4, "-o", out).code == 0
    assert "exists" in kronq.refuses("basis", base, "--rank", 4, "-o", out)
    line = kronq.refuses("quantize", xs, "--basis", out, "-o", tmp_path / "q.safetensors")
    assert f"B [128, 4], A [4, 192]; expected B [128, {RANK}], A [{RANK}, 192]" in line
    line = kronq.refuses("inspect", out)
    assert "--basis takes it" in line
