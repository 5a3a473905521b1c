"""Model folders from strangers: no setting runs a library that kronq did not compile."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import kronq
from kronq.cli import cli
from kronq.errors import KronqError, UnsupportedError
from kronq.onnx.genai_config import LIBRARY, read_genai_config, rewrite_config
from kronq.onnx.slots.kernel import library, verified_library
from tests.adapters import kron

pytest.importorskip("onnxruntime_genai")
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
pytestmark = pytest.mark.skipif(
    COMPILER is None or sys.platform == "win32", reason="needs a C compiler"
)

SOURCE = """
#include <stdio.h>
__attribute__((constructor)) static void mark(void) {
    FILE *file = fopen("%s", "w");
    if (file) fclose(file);
}
void *RegisterCustomOps(void *options, const void *api) { return 0; }
"""
EVIL = f'"session_options": {{"{LIBRARY}": "evil.so"}}'
PART = f'{{"filename": "model.onnx", {EVIL}}}'
VARIANTS = {
    "as kronq writes it": ('"session_options": {', f'"session_options": {{"{LIBRARY}": "evil.so",'),
    "options twice": ('"session_options": {', f'{EVIL}, "session_options": {{'),
    "decoder twice": ('"decoder": {', f'"decoder": {{{EVIL}}}, "decoder": {{'),
    "model twice": ('"model": {', f'"model": {{"decoder": {{{EVIL}}}}}, "model": {{'),
    "setting twice": (
        '"session_options": {',
        f'"session_options": {{"{LIBRARY}": "evil.so", "{LIBRARY}": "libkronq.so",',
    ),
    "escaped": (
        '"session_options": {',
        '"session_options": {"custom_ops\\u005flibrary": "evil.so",',
    ),
    "in this folder": ('"session_options": {', f'"session_options": {{"{LIBRARY}": "./evil.so",'),
    "outside": ('"session_options": {', f'"session_options": {{"{LIBRARY}": "../m/evil.so",'),
    "absolute": ('"session_options": {', f'"session_options": {{"{LIBRARY}": "FOLDER/evil.so",'),
    "no text": ('"session_options": {', f'"session_options": {{"{LIBRARY}": ["evil.so"],'),
    "pipeline": ('"decoder": {', f'"decoder": {{"pipeline": [{{"one": {PART}}}],'),
    "search": ('"search": {', f'"search": {{{EVIL},'),
    "top": ('"model": {', f'{EVIL}, "model": {{'),
    **{
        name: ('"model": {', f'"model": {{"{name}": {PART},')
        for name in ("encoder", "vision", "speech", "embedding")
    },
}


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of a text model, with a library that writes a file ``ran`` when it is opened."""
    folder = tmp_path / "m"
    shutil.copytree(tiny_base, folder)
    compile_marker(folder / "evil.so", tmp_path / "ran")
    return folder


def compile_marker(library: Path, marker: Path) -> None:
    source = library.with_suffix(".c")
    source.write_text(SOURCE % marker)
    command = [str(COMPILER), "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    source.unlink()


def test_the_library_would_leave_a_mark(folder: Path) -> None:
    ctypes.CDLL(str(folder / "evil.so"))
    assert folder.with_name("ran").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_setting_runs_a_library(folder: Path, variant: str) -> None:
    old, new = VARIANTS[variant]
    config = folder / "genai_config.json"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new.replace("FOLDER", str(folder)), 1))
    with pytest.raises(KronqError):
        kronq.Session(folder).generate("a", max_tokens=2)
    for verb in ("run", "chat"):
        result = CliRunner().invoke(cli, [verb, str(folder), "a"], input="a\n")
        assert result.exit_code == 2, result.output
    assert not folder.with_name("ran").exists()


def test_a_config_exchanged_after_the_check_is_not_read(folder: Path) -> None:
    session = kronq.Session(folder)
    config = folder / "genai_config.json"
    old, new = VARIANTS["as kronq writes it"]
    config.write_text(config.read_text().replace(old, new, 1))
    assert session.generate("a", max_tokens=2).tokens
    assert not folder.with_name("ran").exists()


def test_a_library_exchanged_after_the_check_is_not_opened(
    folder: Path, tmp_path: Path, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel:
        pytest.skip("no library")
    rng = np.random.default_rng(0)
    layers = {"model.layers.0.self_attn.q_proj": kron(rng, a=(4, 4), b=(16, 16))}
    adapter = kronq.Adapter(layers)
    out = tmp_path / "slots"
    kronq.export_onnx(adapter, folder, out, form=kronq.Slots(compiled=True), verify=False)
    name = read_genai_config(out)["model"]["decoder"]["session_options"][LIBRARY]

    def exchange(file: Path) -> Path:
        own = verified_library(file)
        (out / name).unlink(missing_ok=True)
        shutil.copyfile(folder / "evil.so", out / name)
        return own

    whole = (out / name).read_bytes()
    monkeypatch.setattr(library, "verified_library", exchange)
    session = kronq.Session(out)
    for use in (
        lambda: session.generate("a", max_tokens=2).tokens,
        lambda: session.logits([3, 4]).tolist(),
    ):
        (out / name).write_bytes(whole)
        assert use()
        assert (out / name).read_bytes() != whole  # it was exchanged, after the check
    assert not (tmp_path / "ran").exists()


def test_an_export_keeps_no_library_of_its_base(folder: Path, tmp_path: Path) -> None:
    old, new = VARIANTS["pipeline"]
    config = folder / "genai_config.json"
    config.write_text(config.read_text().replace(old, new, 1))
    rng = np.random.default_rng(0)
    adapter = kronq.Adapter({"model.layers.0.self_attn.q_proj": kron(rng, a=(4, 4), b=(16, 16))})
    with pytest.raises(UnsupportedError, match="runs code"):
        kronq.export_onnx(adapter, folder, tmp_path / "out", form=kronq.Branch(), verify=False)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"model": 1}',
        '{"model": {"decoder": []}}',
        '{"model": {"decoder": {"session_options": 1}}}',
        '{"model": ' + "[" * 100_000,
        "\xff",
    ],
)
def test_a_damaged_config_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "genai_config.json").write_text(text, "latin-1")
    with pytest.raises(KronqError) as error:
        read_genai_config(tmp_path)
    assert len(str(error.value)) < 1000


def test_what_onnxruntime_genai_gets() -> None:
    options = {"log_id": "x", LIBRARY: "y", "provider_options": [1], "enable_profiling": "p"}
    config = {"model": {"decoder": {"session_options": options}, "vision": {"filename": "v.onnx"}}}
    assert rewrite_config(config, "link") == {
        "model": {
            "decoder": {"session_options": {"log_id": "x"}},
            "vision": {"filename": "link/v.onnx"},
        }
    }
    assert json.dumps(config)  # what was read stays as it was
