"""``kronq pool``."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import kronq as package
from kronq import Native, Pool, convert, load, quantize, save
from kronq.onnx.slots.record import layer_id, read_record
from tests.adapters import adapter, dense
from tests.cli.command import Kronq, Terminal
from tests.evaluate.tiny import tiny_adapter


@pytest.fixture
def kronq(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with packed/a1 … a3 and a PEFT folder."""
    for i in (1, 2, 3):
        save(quantize(adapter(i, layers=1), Native(bits=4)), tmp_path / f"packed/a{i}.safetensors")
    convert(adapter(9, layers=1, kinds=("lora",)), tmp_path / "trained", to="peft")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_adapters_of_every_kind_are_added_under_their_names(kronq: Kronq, desk: Path) -> None:
    done = kronq("pool", "add", "pool", "packed", "trained", "seven=packed/a1.safetensors")
    assert done.code == 0
    assert done.out.startswith("added 5 in ")
    with Pool.open("pool") as pool:
        assert sorted(pool) == ["a1", "a2", "a3", "seven", "trained"]
        assert pool.find("seven").digest == pool.find("a1").digest
        for name, path in {"a2": "packed/a2.safetensors", "trained": "trained"}.items():
            entry, source = pool.find(name), load(path)
            found = read_record(pool.bytes[entry.offset : entry.offset + entry.size])
            for layer, delta in source.items():
                np.testing.assert_allclose(
                    found[layer_id(layer)].dense(), dense(delta), rtol=1e-5, atol=1e-6
                )
        files = [
            desk / "trained" / f"adapter_{name}" for name in ("config.json", "model.safetensors")
        ]
        whole = b"".join(file.read_bytes() for file in files)
        assert pool.find("trained").source == hashlib.sha256(whole).hexdigest()


def test_an_import_of_many_shows_how_many_are_done(
    kronq: Kronq, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERM", "xterm")
        assert kronq("pool", "add", "pool", "packed", "trained", "--workers", 1).code == 0
    assert "adding" in terminal.getvalue()
    assert "4/4 adapters" in terminal.getvalue()


def test_a_pattern_and_a_folder_of_runs(kronq: Kronq, desk: Path) -> None:
    for i in (1, 2):
        shutil.copytree("trained", f"runs/r{i}")
    assert kronq("pool", "add", "pool", "packed/*[12].safetensors").code == 0
    assert kronq("pool", "add", "pool", "runs").code == 0
    assert sorted(Pool.open("pool")) == ["a1", "a2", "r1", "r2"]
    assert "nothing matches" in kronq.refuses("pool", "add", "pool", "x*")
    line = kronq.refuses("pool", "add", "pool", "runs/r1", "packed", "r1=packed/a1.safetensors")
    assert "several adapters of one name; found r1" in line
    assert "one name for several" in kronq.refuses("pool", "add", "pool", "x=packed")
    assert "not a name" in kronq.refuses("pool", "add", "pool", "..=packed/a1.safetensors")


def test_an_import_that_is_repeated_goes_on_where_it_was(kronq: Kronq, desk: Path) -> None:
    kronq("pool", "add", "pool", "packed/a1.safetensors")
    before = Pool.open("pool").find("a1")
    report = kronq("pool", "add", "pool", "packed", "--json").json()
    assert (report["added"], report["unchanged"], report["failed"]) == (2, 1, 0)
    assert Pool.open("pool").find("a1") == before
    shutil.copy("packed/a2.safetensors", "a1.safetensors")
    line = kronq.refuses("pool", "add", "pool", "a1.safetensors")
    assert "other adapters of these names; found a1 (hint: --force replaces" in line
    assert Pool.open("pool").find("a1") == before
    assert kronq("pool", "add", "pool", "a1.safetensors", "--force").code == 0
    with Pool.open("pool") as pool:
        assert pool.find("a1").digest == pool.find("a2").digest
        assert pool.find("a1").tag != before.tag


def test_other_options_of_reading_are_another_adapter(kronq: Kronq, desk: Path) -> None:
    kronq("pool", "add", "pool", "trained")
    assert "other adapters of these names" in kronq.refuses(
        "pool", "add", "pool", "trained", "--alpha", "77"
    )
    assert kronq("pool", "add", "pool", "loud=trained", "--alpha", "77").code == 0
    assert Pool.open("pool").find("loud").source.endswith(" alpha=77.0")


def test_one_that_cannot_be_read_stops_no_other(kronq: Kronq, desk: Path) -> None:
    Path("packed/a0.safetensors").write_bytes(b"nothing")
    done = kronq("pool", "add", "pool", "packed")
    assert done.code == 2
    assert "packed/a0.safetensors: not a safetensors file" in done.err
    assert done.err.splitlines()[-1] == "kronq: error: 1 of 4 adapters failed"
    assert sorted(Pool.open("pool")) == ["a1", "a2", "a3"]
    report = kronq("pool", "add", "new", "packed", "--json", "--workers", "2").json()
    assert (report["added"], report["failed"]) == (3, 1)
    with Pool.open("pool") as pool, Pool.open("new") as new:  # processes change no digest
        assert [e.digest for e in pool.values()] == [e.digest for e in new.values()]


def test_adapters_have_to_fit_the_model(kronq: Kronq, desk: Path, tiny_base: Path) -> None:
    package.export_onnx(tiny_adapter("lora"), tiny_base, "app", verify=False)
    save(quantize(tiny_adapter("lora"), bits=4), "fits.safetensors")
    assert kronq("pool", "add", "pool", "fits.safetensors", "--model", "app").code == 0
    line = kronq.refuses("pool", "add", "pool", "packed/a1.safetensors", "--model", "app")
    assert "5 of 5 layers have no slot" in line
    assert list(Pool.open("pool")) == ["fits"]


def test_a_pool_is_listed(kronq: Kronq, desk: Path) -> None:
    kronq("pool", "add", "pool", "packed", "trained")
    text = kronq("pool", "ls", "pool").out.splitlines()
    assert text[0].split() == ["adapter", "bytes", "bit/param", "error", "method", "added"]
    assert [line.split()[0] for line in text[1:5]] == ["a1", "a2", "a3", "trained"]
    assert text[5].startswith("4 adapters, ")
    some = kronq("pool", "ls", "pool", "a[13]", "--json").json()
    assert [row["name"] for row in some["rows"]] == ["a1", "a3"]
    assert some["rows"][0]["relative_error"] == load("packed/a1.safetensors").recipe.relative_error
    assert len(some["rows"][0]["digest"]) == 64
    assert "digest" in kronq("pool", "ls", "pool", "-v").out


def test_adapters_are_removed_and_their_bytes_freed(kronq: Kronq, desk: Path) -> None:
    kronq("pool", "add", "pool", "packed")
    line = kronq.refuses("pool", "rm", "pool", "a1", "a22")
    assert "no such adapter in the pool; found a22 (hint: did you mean a2?)" in line
    assert len(Pool.open("pool")) == 3
    assert "removed 1; pool has 2 adapters, " in kronq("pool", "rm", "pool", "a1").out
    size = Path("pool/records-1").stat().st_size
    done = kronq("pool", "compact", "pool", "--json").json()
    assert done["freed"] == size - Path("pool/records-2").stat().st_size > 0
    assert kronq("pool", "compact", "pool").out.startswith("freed 0 bytes; pool has 2 adapters")


def test_damage_is_found(kronq: Kronq, desk: Path) -> None:
    kronq("pool", "add", "pool", "packed")
    assert kronq("pool", "check", "pool").out.startswith("3 adapters are as they were added")
    at = Pool.open("pool").find("a2").offset + 1000
    with Path("pool/records-1").open("r+b") as file:
        file.seek(at)
        file.write(b"damage")
    done = kronq("pool", "check", "pool")
    assert done.code == 2
    assert "a2: the adapter's record is damaged" in done.err
    assert "pool: 1 adapters are damaged" in done.err
    assert list(kronq("pool", "check", "pool", "--json").json()["problems"]) == ["a2"]
    assert "damaged" in kronq.refuses("pool", "compact", "pool")
    assert kronq("pool", "add", "pool", "packed/a2.safetensors", "--force").code == 0
    assert kronq("pool", "check", "pool").code == 0


def test_names_are_printed_without_control_characters(kronq: Kronq, desk: Path) -> None:
    line = kronq.refuses("pool", "add", "pool", "a\x1b[31m=packed/a1.safetensors")
    assert "\x1b" not in line
    assert "no control characters" in line


def test_a_pool_is_no_adapter(kronq: Kronq, desk: Path) -> None:
    kronq("pool", "add", "pool", "packed")
    assert "this is a pool; 'kronq pool ls'" in kronq.refuses("inspect", "pool")


def test_what_is_no_pool(kronq: Kronq, desk: Path) -> None:
    assert "packed: not a pool" in kronq.refuses("pool", "add", "packed", "trained")
    for verb in (["ls"], ["rm"], ["check"], ["compact"]):
        line = kronq.refuses("pool", *verb, "packed", *["a"] * (verb == ["rm"]))
        assert "packed: no pool here" in line
    assert json.loads(kronq("pool", "ls", "packed", "--json").out)["error"]["path"] == "packed"
