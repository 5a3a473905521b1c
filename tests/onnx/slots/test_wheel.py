"""The built wheel where there is nothing but a Python: installed, exported with, run.

`make wheel` sets KRONQ_WHEEL to the wheel; `make wheel-arm64` also KRONQ_ARM64 to a Python for ARM
in QEMU that it is installed in (tools/arm64.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.compiled.platforms import SHIPPED, library_name, this_platform
from kronq.onnx.slots.slot_spec import SlotSpec
from tests.evaluate.tiny import tiny_adapter
from tests.paths import ROOT

WHEEL, ARM64 = os.environ.get("KRONQ_WHEEL"), os.environ.get("KRONQ_ARM64")
IDS = [5, 9, 12, 40]
PACKAGES = ["onnxruntime-genai", "-c", str(ROOT / "constraints.txt")]
LOGITS = """
import sys, numpy, kronq
from kronq.compiled.library import library
app, packed, out, *ids = sys.argv[1:]
session = kronq.Session(app, {"a": packed}, threads=1)
numpy.save(out, session.logits([int(each) for each in ids], adapter="a"))
print(library()._name)
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not WHEEL, reason="make wheel")]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A Python of a new environment that has the wheel, and what pip installs with it."""
    if this_platform() not in SHIPPED:
        pytest.skip(f"no library for {this_platform()}")
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    install = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", str(WHEEL)]
    subprocess.run([*install, *PACKAGES], check=True)
    return [python]


@pytest.fixture
def arm64() -> list[str]:
    if not ARM64:
        pytest.skip("make wheel-arm64")
    return [str(Path(ARM64).absolute())]


@pytest.mark.parametrize(
    ("python", "platform"), [("bare", this_platform()), ("arm64", "linux-arm64")]
)
def test_export_and_decode_without_a_compiler(
    tmp_path: Path, tiny_base: Path, request: pytest.FixtureRequest, python: str, platform: str
) -> None:
    """By `kronq` alone: PATH is empty. The logits are those of open slots in this environment."""
    command = request.getfixturevalue(python)
    adapter = kronq.quantize(tiny_adapter(), kronq.Compact(bpw=6))
    packed = kronq.save(adapter, tmp_path / "a.safetensors")

    def run(*args: object) -> str:
        env = {"PATH": str(tmp_path / "none"), "KRONQ_CACHE": str(tmp_path / "cache")}
        kept = {n: os.environ[n] for n in ("SYSTEMROOT", "OPENBLAS_CORETYPE") if n in os.environ}
        done = subprocess.run(
            [*command, *map(str, args)],
            capture_output=True,
            text=True,
            env=env | kept,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    app = tmp_path / "app"
    export = ["-m", "kronq", "export", packed, "--base", tiny_base, "-o", app, "--json"]
    report = json.loads(run(*export))
    assert report["kernel"] == [platform]
    assert report["verification"]["model"]["relative"] < 1e-5
    assert (app / library_name("kronq", platform)).is_file()
    assert not list(tmp_path.joinpath("cache").glob("kernels/*"))  # nothing was compiled
    loops = run("-c", LOGITS, app, packed, tmp_path / "logits.npy", *IDS)
    assert Path(loops.strip()).name == library_name("kronq_loops", platform)
    answer = run("-m", "kronq", "run", app, "--adapter", packed, "--prompt", "a", "--max-tokens", 4)
    assert answer

    settings = kronq.Slots(compiled=False)
    kronq.export_onnx(adapter, tiny_base, tmp_path / "open", settings, verify=False)
    assert SlotSpec.read(tmp_path / "open").kernel is None
    expected = kronq.Session(tmp_path / "open", {"a": packed}).logits(IDS, adapter="a")
    found = np.load(tmp_path / "logits.npy")
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
