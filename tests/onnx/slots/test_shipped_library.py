"""The library that a wheel carries: taken without a compiler, and never when it is another one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import kronq
from kronq.errors import KronqError, UnsupportedError
from kronq.onnx.slots.kernel import COMPILE, build_library, find_library, shipped, verified_library
from tests.evaluate.tiny import tiny_adapter

try:
    COMPILED = build_library()
except UnsupportedError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This platform's library as an installed wheel has it, and no compiler."""
    here = shipped.this_platform()
    if here not in shipped.NAMES:
        pytest.skip(f"no library is shipped for {here}")
    library = tmp_path / "libraries" / here / shipped.NAMES[here]
    library.parent.mkdir(parents=True)
    library.write_bytes(COMPILED.read_bytes())
    record(library)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "libraries")
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", "no-such-compiler")
    return library


def record(library: Path) -> None:
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    line = f"{digest}  {library.parent.name}/{library.name}\n"
    (library.parents[1] / shipped.RECORD).write_text(line)


def test_an_export_needs_no_compiler(library: Path, tiny_base: Path, tmp_path: Path) -> None:
    assert find_library() == library
    adapter, out = tiny_adapter(), tmp_path / "out"
    kronq.export_onnx(adapter, tiny_base, out, form=kronq.Slots(compiled=True), verify=False)
    assert verified_library(out / library.name) == library
    assert kronq.Session(out).logits([3, 4]).size


def test_a_damaged_one_is_not_used(library: Path) -> None:
    whole = library.read_bytes()
    library.write_bytes(whole + b"more")
    for use in (find_library, lambda: verified_library(COMPILED)):
        with pytest.raises(KronqError, match=r"installed with is damaged.*pip install --force"):
            use()
    library.unlink()
    with pytest.raises(KronqError, match="found no file"):
        find_library()
    library.write_bytes(whole)
    (library.parents[1] / shipped.RECORD).write_text("damaged, too\n")
    with pytest.raises(KronqError, match="expected a line in SHA256SUMS"):
        find_library()


def test_source_can_be_compiled_all_the_same(library: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(COMPILE, "1")
    with pytest.raises(UnsupportedError, match="no C compiler"):
        find_library()
    monkeypatch.delenv("CC")
    assert find_library().is_relative_to(tmp_path / "cache")


def test_a_model_folder_has_the_shipped_or_a_compiled_one(library, tmp_path, monkeypatch) -> None:
    library.write_bytes(COMPILED.read_bytes() + b"made by another compiler")
    record(library)
    file = tmp_path / library.name
    file.write_bytes(library.read_bytes())
    assert verified_library(file) == library
    file.write_bytes(COMPILED.read_bytes())
    with pytest.raises(UnsupportedError, match="not made on this machine"):
        verified_library(file)
    monkeypatch.delenv("CC")
    assert verified_library(file).read_bytes() == COMPILED.read_bytes()


@pytest.mark.parametrize(
    ("system", "machine", "libc", "expected"),
    [
        ("linux", "aarch64", "glibc", "linux-aarch64"),
        ("linux", "x86_64", "", None),  # musl
        ("darwin", "arm64", "", "macosx-arm64"),
        ("linux", "riscv64", "glibc", "linux-riscv64"),
    ],
)
def test_a_platform_without_one_compiles(
    library, monkeypatch, system, machine, libc, expected
) -> None:
    monkeypatch.setattr(shipped.sys, "platform", system)
    monkeypatch.setattr(shipped.platform, "machine", lambda: machine)
    monkeypatch.setattr(shipped.platform, "libc_ver", lambda: (libc, ""))
    assert shipped.this_platform() == expected
    if expected not in shipped.NAMES:
        assert shipped.shipped_library() is None
