"""``kronq quantize``: exit codes, JSON, and what is and is not written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import kronq as package
from tests.cli.command import Kronq

FIGURES = {"parameters", "bytes", "bits_per_parameter", "relative_error", "snr_db"}


def files(folder: Path) -> list[str]:
    """Everything in it, hidden temporary files too."""
    return sorted(f.name for f in folder.rglob("*"))


@pytest.mark.parametrize("bits", [16, 8, 4, 3, 2])
def test_the_file_is_written_and_told(kronq: Kronq, trained: Path, out: Path, bits: int) -> None:
    file = out / "a.safetensors"
    result = kronq("quantize", trained, "-o", file, "--bits", bits)
    assert (result.code, result.err) == (0, "")
    assert f"wrote {file}, {file.stat().st_size:,} bytes" in result.out
    assert files(out) == ["a.safetensors"]
    assert set(package.load(file)) == set(package.load(trained))


def test_json_is_alone_on_stdout_and_the_same_as_the_report(
    kronq: Kronq, trained: Path, out: Path
) -> None:
    file, report = out / "a.safetensors", out / "a.json"
    result = kronq("quantize", trained, "-o", file, "--json", "--report", report)
    assert (result.code, result.err) == (0, "")
    told = result.json()
    assert told == json.loads(report.read_text())
    assert told["total"]["bytes"] == file.stat().st_size
    assert files(out) == ["a.json", "a.safetensors"]


def test_what_the_report_has(kronq: Kronq, trained: Path) -> None:
    told = kronq("quantize", trained, "--dry-run", "--json").json()
    source = package.load(trained)
    assert told["source"] == str(trained)
    assert (told["method"], told["bits"], told["family"]) == ("native", 4, "kron")
    assert told["total"].keys() >= FIGURES
    assert [layer["name"] for layer in told["layers"]] == list(source)
    for layer in told["layers"]:
        assert layer.keys() >= FIGURES | {"name", "shape", "rank", "bits"}
        delta = source[layer["name"]]
        assert (layer["shape"], layer["rank"], layer["bits"]) == (list(delta.shape), 4, 4)
    total = told["total"]
    assert total["parameters"] == source.parameters
    assert total["bits_per_parameter"] == 8 * total["bytes"] / total["parameters"]
    assert total["snr_db"] == pytest.approx(-20 * np.log10(total["relative_error"]))


def test_every_option_reaches_the_file(kronq: Kronq, trained: Path, out: Path) -> None:
    file = out / "a.safetensors"
    options = ["--bits", 3, "--method", "rtn", "--axis", "row", "--group-size", 8]
    options += ["--a-bits", 8, "--alpha", 2]
    layers = ["--layer", "v_proj=8", "--layer", r"layers\.0\.=4"]
    assert kronq("quantize", trained, "-o", file, *options, *layers).code == 0
    adapter = package.load(file)
    recipe = adapter.recipe
    assert recipe is not None
    assert (recipe.bits, recipe.method, recipe.axis, recipe.group_size, recipe.a_bits) == (
        3, "rtn", "row", 8, 8
    )  # fmt: skip
    assert recipe.layer_bits == {"v_proj": 8, r"layers\.0\.": 4}
    assert {delta.scale for delta in adapter.values()} == {2 / 4}
    widths = {recipe.bits_for(name) for name in adapter if ".0." in name}
    assert widths == {4}


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ([], "method native: the default"),
        (["--bits", 3], "method native: the default for --bits 3"),
        (["--bits", 16], "method fp16: 16 bits are float16"),
        (["--bpw", 4.01], "method compact: the default for --bpw"),
        (["--bpw", 11], "method compact: the default for --bpw"),
        (["--max-error", "10%"], "method compact: the default for --max-error"),
        (["--bits", 4, "--layer", "v_proj=4"], "method native: the default for --bits 4"),
        (["--method", "balanced", "--layer", "v_proj=8"], "method balanced: asked for"),
    ],
    ids=str,
)
def test_the_first_line_says_the_method_and_why(
    kronq: Kronq, trained: Path, options: list[object], first: str
) -> None:
    assert kronq("quantize", trained, "--dry-run", *options).out.splitlines()[0] == first


def test_quiet_prints_nothing_and_verbose_every_layer(
    kronq: Kronq, trained: Path, out: Path
) -> None:
    asked = ["quantize", trained, "-o", out / "a.safetensors", "--force"]
    quiet = kronq(*asked, "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert (out / "a.safetensors").is_file()
    usual, verbose = kronq(*asked).out, kronq(*asked, "-v").out
    names = list(package.load(trained))
    assert all(any(line.startswith(f"{n} ") for line in verbose.splitlines()) for n in names)
    assert len(verbose.splitlines()) > len(usual.splitlines())


def test_verbose_shows_where_an_error_comes_from(kronq: Kronq) -> None:
    assert "Traceback" not in kronq("quantize", "nowhere", "--dry-run").err
    assert "Traceback" in kronq("quantize", "nowhere", "--dry-run", "-v").err


def test_help_fits_a_screen_and_help_all_has_the_rest(kronq: Kronq) -> None:
    page = kronq("quantize", "--help").out
    assert len(page.splitlines()) <= 50
    assert "--a-bits" not in page
    assert "kronq quantize --help-all" in page
    every = kronq("quantize", "--help-all").out
    assert all(name in every for name in ("--a-bits", "--group-size", "--scale-rule", "--judge"))


def test_an_override_that_asks_for_nothing_changes_nothing(
    kronq: Kronq, trained: Path, out: Path
) -> None:
    for name, options in (("a", []), ("b", ["--layer", "v_proj=4"])):
        asked = ["-o", out / f"{name}.safetensors", "--bits", 4, "--json", *options]
        kronq("quantize", trained, *asked)
    one, other = (package.load(out / f"{name}.safetensors") for name in "ab")
    for name, delta in one.items():
        assert np.array_equal(delta.dense(), other[name].dense())


def test_the_same_command_gives_the_same_bytes(kronq: Kronq, trained: Path, out: Path) -> None:
    for name in ("a", "b"):
        kronq("quantize", trained, "-o", out / f"{name}.safetensors")
    assert (out / "a.safetensors").read_bytes() == (out / "b.safetensors").read_bytes()


def test_a_dry_run_writes_nothing(kronq: Kronq, trained: Path, out: Path) -> None:
    file = out / "a.safetensors"
    result = kronq("quantize", trained, "-o", file, "--report", out / "a.json", "--dry-run")
    assert result.code == 0
    assert "total ×6, file" in result.out
    assert files(out) == []


@pytest.mark.parametrize(("limit", "code"), [("50%", 0), ("0.5", 0), ("0.1%", 1), ("0", 1)])
def test_max_error_beside_bits_is_a_check(
    kronq: Kronq, trained: Path, out: Path, limit: str, code: int
) -> None:
    """Above it there is a report that says so, and no adapter."""
    result = kronq(
        "quantize", trained, "-o", out / "a.safetensors", "--max-error", limit, "--bits", 4,
        "--report", out / "a.json", "--json",
    )  # fmt: skip
    assert result.code == code
    assert files(out) == (["a.json"] if code else ["a.json", "a.safetensors"])
    assert result.json()["total"]["relative_error"] > 0
    assert ("no adapter was written" in result.err) == bool(code)
    assert result.err.count("\n") == code


def test_an_existing_output_is_kept(kronq: Kronq, trained: Path, out: Path) -> None:
    """Whether it is the adapter or the report that is there; and refused before any work."""
    file, report = out / "a.safetensors", out / "a.json"
    for there in (file, report):
        there.write_text("mine")
        error = kronq.refuses("quantize", trained, "-o", file, "--report", report)
        assert error == f"kronq: error: {there}: the output exists (hint: --force overwrites it)"
        assert files(out) == [there.name]
        assert there.read_text() == "mine"
        there.unlink()
    file.write_text("mine")
    assert kronq("quantize", trained, "-o", file, "--force").code == 0
    assert file.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--layer", "v_proj=5"], "no such width; found 5"),
        (["--layer", "v_proj"], "bad --layer; found 'v_proj'; expected REGEX=BITS"),
        (["--layer", "nothing=4"], "matches no layer; found 'nothing'"),
        (["--layer", "(=4"], "bad layer expression '('"),
        (["--group-size", "1", "--method", "rtn"], "bad group_size; found 1"),
        (["--group-size", "8"], "--group-size is for --method balanced or rtn, not native"),
        (
            ["--layer", "v_proj=4", "--size", "1MB"],
            "--layer is for --method native, balanced",
        ),
        (["--method", "compact"], "--method compact needs --bpw, --size or --max-error"),
        (
            ["--method", "compact", "--bits", "4"],
            "--bits is for --method native, balanced",
        ),
        (["--bits", "4.01"], "Invalid value for '--bits': '4.01' is not a valid integer"),
        (["--bits", "4", "--bpw", "4"], "one budget at a time; found bits, bpw"),
        (["--bpw", "40"], "bad bpw; found 40.0"),
        (["--max-error", "much"], "bad --max-error; found 'much'"),
        (["--max-error", "-1"], "bad --max-error"),
        (["--max-error", "nan"], "bad --max-error"),
        (["--scale-rule", "lycoris", "--format", "kronq"], "a packed file has its scales already"),
        (["--format", "lycoris"], ""),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(
    kronq: Kronq, trained: Path, out: Path, options: list[str], told: str
) -> None:
    assert told in kronq.refuses("quantize", trained, "-o", out / "a.safetensors", *options)
    assert files(out) == []


@pytest.mark.parametrize("name", ["a.bin", "a", "a.json"])
def test_the_output_has_a_name_that_is_found_again(
    kronq: Kronq, trained: Path, out: Path, name: str
) -> None:
    """Told before anything is written, the report too."""
    error = kronq.refuses("quantize", trained, "-o", out / name, "--report", out / "r.json")
    assert error.endswith(f"{name}: the packed file's name; expected a .safetensors file")
    assert files(out) == []


def test_an_output_in_a_file(kronq: Kronq, trained: Path, out: Path) -> None:
    (out / "file").write_text("mine")
    error = kronq.refuses("quantize", trained, "-o", out / "file" / "a.safetensors")
    assert "parent is not a folder" in error
    assert (out / "file").read_text() == "mine"


def test_an_output_folder_is_made(kronq: Kronq, trained: Path, out: Path) -> None:
    assert kronq("quantize", trained, "-o", out / "new" / "deep" / "a.safetensors").code == 0
    assert files(out) == ["a.safetensors", "deep", "new"]


def test_quantizing_twice(kronq: Kronq, trained: Path, out: Path) -> None:
    file = out / "a.safetensors"
    kronq("quantize", trained, "-o", file)
    error = kronq.refuses("quantize", file, "-o", out / "b.safetensors")
    assert error.startswith(f"kronq: error: {file}: the adapter is quantized already; found")
    assert files(out) == ["a.safetensors"]


def test_values_that_are_not_finite(kronq: Kronq, trained: Path, out: Path) -> None:
    weights = trained / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    name = "model.layers.1.self_attn.v_proj"
    tensors[f"base_model.model.{name}.lokr_w2_a"][3, 1] = np.nan
    safetensors.numpy.save_file(tensors, weights)
    error = kronq.refuses("quantize", trained, "-o", out / "a.safetensors")
    assert f"{name}: the layer has values that are not finite" in error
    assert files(out) == []


@pytest.mark.parametrize("size", [0, 5, 100, 5000, -1])
def test_a_truncated_file(kronq: Kronq, trained: Path, out: Path, size: int) -> None:
    weights = trained / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    error = kronq.refuses("quantize", trained, "-o", out / "a.safetensors")
    assert str(weights) in error
    assert "was the download or the copy complete?" in error
    assert files(out) == []


def test_a_missing_config(kronq: Kronq, trained: Path, out: Path) -> None:
    (trained / "adapter_config.json").unlink()
    error = kronq.refuses("quantize", trained, "-o", out / "a.safetensors")
    assert str(trained) in error
    assert "adapter_config.json" in error
    assert files(out) == []


def test_missing_weights(kronq: Kronq, trained: Path, out: Path) -> None:
    (trained / "adapter_model.safetensors").unlink()
    error = kronq.refuses("quantize", trained, "-o", out / "a.safetensors")
    assert "adapter_model.safetensors" in error
    assert files(out) == []


def test_a_full_disk_leaves_nothing_behind(
    trained: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither half a file nor a temporary one, and what was there stays there."""
    file = out / "a.safetensors"
    file.write_text("mine")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(package.KronqError, match="No space left"):
        package.save(package.quantize(package.load(trained)), file, force=True)
    assert files(out) == ["a.safetensors"]
    assert file.read_text() == "mine"


def test_an_output_must_be_given(kronq: Kronq, trained: Path) -> None:
    result = kronq("quantize", trained)
    assert (result.code, result.out) == (2, "")
    assert "give an output with -o, or --dry-run" in result.err


def test_the_report_may_not_take_the_adapters_place(kronq: Kronq, trained: Path, out: Path) -> None:
    options = ["-o", out / "a.safetensors", "--report", out / "." / "a.safetensors"]
    assert "are the same file" in kronq.refuses("quantize", trained, *options, "--force")
    assert files(out) == []


def test_what_was_trained_is_never_overwritten(kronq: Kronq, trained: Path, out: Path) -> None:
    """Not even with --force: quantizing cannot be undone."""
    file = out / "float.safetensors"
    package.save(package.load(trained), file)
    before = file.read_bytes()
    assert "is or holds an input" in kronq.refuses("quantize", file, "-o", file, "--force")
    assert file.read_bytes() == before
    weights = trained / "adapter_model.safetensors"
    assert "is or holds an input" in kronq.refuses("quantize", trained, "-o", weights, "--force")
    for to in ("peft", "lora"):
        options = ["--to", to, "-o", trained, "--force"]
        assert "is or holds an input" in kronq.refuses("convert", trained, *options)
    assert len(package.load(trained)) == 6


def test_a_page(kronq: Kronq, trained: Path, out: Path) -> None:
    """Of the same figures, with the adapter at other widths; and only where it is asked for."""
    page = out / "a.html"
    options = ["-o", out / "a.safetensors", "--html", page]
    assert kronq("quantize", trained, *options, "--dry-run").code == 0
    assert files(out) == []
    result = kronq("quantize", trained, *options, "--json")
    assert (result.code, result.err) == (0, "")
    assert files(out) == ["a.html", "a.safetensors"]
    text = page.read_text(encoding="utf-8")
    assert "this file" in text
    assert "compact, 2 bit" in text
    before = page.read_bytes()
    (out / "a.safetensors").unlink()
    assert "the output exists" in kronq.refuses("quantize", trained, *options)
    assert kronq("quantize", trained, *options, "--force").code == 0
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--method", "rtn"], "rtn, 3 bit"),
        (["--bpw", 4], "compact at 4 bits"),
        (["--bits", 16], "fp16"),
    ],
)
def test_a_page_of_another_method(
    kronq: Kronq, trained: Path, out: Path, asked: list[str], told: str
) -> None:
    options = ["-o", out / "a.safetensors", "--html", out / "a.html", *asked]
    assert kronq("quantize", trained, *options).code == 0
    assert told in (out / "a.html").read_text(encoding="utf-8")


def test_outputs_that_are_one_file_or_no_page(kronq: Kronq, trained: Path, out: Path) -> None:
    options = ["-o", out / "a.safetensors", "--report", out / "a.html", "--html", out / "a.html"]
    line = kronq.refuses("quantize", trained, *options)
    assert "--report and --html are the same file" in line
    line = kronq.refuses("quantize", trained, *options[:2], "--html", out / "a.txt")
    assert "expected an .html file" in line
    assert files(out) == []


@pytest.mark.parametrize("method", ["native", "compact"])
def test_a_size_above_what_codes_can_use_is_a_note(
    kronq: Kronq, trained: Path, out: Path, method: str
) -> None:
    options = ("--method", method, "--size", "10MB")
    result = kronq("quantize", trained, "-o", out / "a.safetensors", *options)
    assert result.code == 0
    note = f"{method} codes have no use for 10,000,000 bytes; this is their best file\n"
    assert result.err == f"kronq: note: {note}"
    assert kronq("quantize", trained, "--dry-run", "--size", "2KB", "--json").err == ""
