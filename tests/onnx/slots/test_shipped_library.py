"""The libraries that a wheel carries: taken without a compiler, and never when they are others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import kronq
from kronq.compiled import find, platforms, shipped
from kronq.compiled.find import COMPILE, compiled_library
from kronq.compiled.library import SWITCH
from kronq.compiled.platforms import SHIPPED, library_name, this_platform
from kronq.errors import ArgumentError, KronqError, UnsupportedError
from kronq.onnx.slots.kernel import PROGRAM, find_libraries, verified_library
from kronq.onnx.slots.slot_spec import SPEC
from tests.cli.command import Kronq
from tests.evaluate.tiny import tiny_adapter

try:
    COMPILED = compiled_library(PROGRAM)
except UnsupportedError as error:
    pytest.skip(str(error), allow_module_level=True)

HERE = this_platform()
OTHER = "win-arm64" if HERE != "win-arm64" else "linux-x64"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This platform's library as an installed wheel has it, others' beside it, and no compiler."""
    if HERE not in SHIPPED:
        pytest.skip(f"no library is shipped for {HERE}")
    folder = tmp_path / "libraries"
    folder.mkdir()
    for platform in SHIPPED:
        content = COMPILED.read_bytes() if platform == HERE else platform.encode()
        (folder / library_name("kronq", platform)).write_bytes(content)
    record(folder)
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv(SWITCH, "0")  # the loops, of which this folder has no library
    return folder / library_name("kronq", HERE)


def record(folder: Path) -> None:
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in folder.iterdir()]
    (folder / shipped.RECORD).write_text("".join(lines))


def export(base: Path, out: Path, **settings) -> kronq.ExportReport:
    form = kronq.Slots(**settings)
    return kronq.export_onnx(tiny_adapter(), base, out, form=form, verify=False)


def named_in_config(out: Path) -> str:
    config = json.loads((out / "genai_config.json").read_text())
    return config["model"]["decoder"]["session_options"]["custom_ops_library"]


def test_an_export_needs_no_compiler(library: Path, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(tiny_base, out).kernel == [HERE]  # by default
    assert verified_library(out / library.name) == library
    assert kronq.Session(out).logits([3, 4]).size


def test_libraries_of_several_platforms(
    library: Path, tiny_base: Path, tmp_path: Path, command: Kronq
) -> None:
    """Each in a file of its own; genai_config.json names this machine's, kronq takes it."""
    out, packed = tmp_path / "out", tmp_path / "a.safetensors"
    kronq.save(kronq.quantize(tiny_adapter(), bits=8), packed)
    place = ["--base", tiny_base, "-o", out, "--platform", f"{OTHER}, {HERE}"]
    result = command("export", packed, *place, "--no-verify", "--json")
    assert result.json()["kernel"] == [HERE, OTHER]
    assert json.loads((out / SPEC).read_text())["kernel"] == [HERE, OTHER]
    assert named_in_config(out) == library.name
    assert (out / library_name("kronq", OTHER)).read_bytes() == OTHER.encode()
    assert kronq.Session(out).logits([3, 4]).size
    report = export(tiny_base, tmp_path / "all", platforms="all")
    assert set(report.kernel) == set(SHIPPED)
    assert {library_name("kronq", on) for on in SHIPPED} < set(report.files)


def test_a_model_for_other_machines_alone(library, tiny_base, tmp_path, monkeypatch) -> None:
    """kronq opens its own for this machine where it has both, and knows that they are of a kind."""
    export(tiny_base, out := tmp_path / "out", platforms=[OTHER])
    assert named_in_config(out) == library_name("kronq", OTHER)
    uses = (lambda s: s.logits([3, 4]).tolist(), lambda s: s.generate("a", max_tokens=2).tokens)
    for use in uses:
        assert use(kronq.Session(out))
    # What lies there for this machine, but was not put there by the export, is not opened.
    (out / library.name).write_bytes(library.read_bytes())
    (out / library_name("kronq", OTHER)).write_bytes(b"of another version")
    for use in uses:
        with pytest.raises(UnsupportedError, match=rf"operator for this.*{OTHER}.*{HERE}"):
            use(kronq.Session(out))


def test_platforms_that_do_not_exist(tmp_path: Path, command: Kronq) -> None:
    with pytest.raises(
        ArgumentError, match="no such platform; found linux-x65; expected linux-x64"
    ):
        kronq.Slots(platforms=["linux-x65"])
    with pytest.raises(ArgumentError, match="compiled=False"):
        kronq.Slots(compiled=False, platforms=[HERE])
    with pytest.raises(UnsupportedError, match=f"without the operator for this platform.*{OTHER}"):
        find_libraries([OTHER])
    refused = command.refuses("export", tmp_path, "--base", tmp_path, "--platform", "dos")
    assert "no such platform; found dos; expected linux-x64, " in refused


def test_a_damaged_one_is_not_used(library: Path, tiny_base: Path, tmp_path: Path) -> None:
    whole = library.read_bytes()
    library.write_bytes(whole + b"more")
    for use in (find_libraries, lambda: verified_library(COMPILED)):
        with pytest.raises(KronqError, match=r"installed with is damaged.*pip install --force"):
            use()
    with pytest.raises(KronqError, match="installed with is damaged"):  # not open slots instead
        export(tiny_base, tmp_path / "out")
    library.unlink()
    with pytest.raises(KronqError, match="found no file"):
        find_libraries()
    library.write_bytes(whole)
    (library.parent / shipped.RECORD).write_text("damaged, too\n")
    with pytest.raises(KronqError, match="expected a line in SHA256SUMS"):
        find_libraries()


def test_source_can_be_compiled_all_the_same(library: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(COMPILE, "1")
    with pytest.raises(UnsupportedError, match="no C compiler"):
        find_libraries()
    monkeypatch.delenv("CC")
    assert find_libraries()[HERE].is_relative_to(tmp_path / "cache")


def test_a_folder_with_either_of_this_machines_libraries_opens(
    library: Path, tmp_path, monkeypatch
) -> None:
    library.write_bytes(COMPILED.read_bytes() + b"made by another compiler")
    record(library.parent)
    file = tmp_path / library.name
    file.write_bytes(library.read_bytes())
    assert verified_library(file) == library
    file.write_bytes(COMPILED.read_bytes())
    with pytest.raises(UnsupportedError, match="not made on this machine"):
        verified_library(file)
    monkeypatch.delenv("CC")
    assert verified_library(file).read_bytes() == COMPILED.read_bytes()


@pytest.mark.parametrize(
    ("system", "machine", "libc", "expected", "file"),
    [
        ("linux", "x86_64", "glibc", "linux-x64", "libkronq-linux-x64.so"),
        ("linux", "aarch64", "glibc", "linux-arm64", "libkronq-linux-arm64.so"),
        ("linux", "x86_64", "", "linux-musl-x64", "libkronq-linux-musl-x64.so"),
        ("linux", "riscv64", "glibc", "linux-riscv64", "libkronq-linux-riscv64.so"),
        ("darwin", "arm64", "", "osx-arm64", "libkronq-osx-arm64.dylib"),
        ("darwin", "x86_64", "", "osx-x64", "libkronq-osx-x64.dylib"),
        ("win32", "win-amd64", "", "win-x64", "kronq-win-x64.dll"),
        ("win32", "win-arm64", "", "win-arm64", "kronq-win-arm64.dll"),
        ("win32", "win32", "", "win-x86", "kronq-win-x86.dll"),
    ],
)
def test_names(library, monkeypatch, system, machine, libc, expected, file) -> None:
    monkeypatch.setattr(platforms.sys, "platform", system)
    monkeypatch.setattr(platforms.platform, "machine", lambda: machine)
    monkeypatch.setattr(platforms.platform, "libc_ver", lambda: (libc, ""))
    monkeypatch.setattr(platforms.sysconfig, "get_platform", lambda: machine)
    assert this_platform() == expected
    assert library_name("kronq", expected) == file
    found = shipped.shipped_library(PROGRAM, expected)
    assert found is None if expected not in SHIPPED else found.name == file
    if found is None:
        with pytest.raises(UnsupportedError, match="no C compiler"):
            find.own_library(PROGRAM)
