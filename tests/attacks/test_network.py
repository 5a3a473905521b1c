"""No verb needs a network, or tries to reach one: neither Python nor a native library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.base import builder
from kronq.errors import KronqError
from tests.adapters import kron
from tests.paths import ROOT

ALONE = ["unshare", "--map-root-user", "--net"]
"""Starts a program without any network but a loopback device that is down."""

SETUP = """
import sys
from pathlib import Path

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise AssertionError(f"{event} {arguments}")

sys.addaudithook(refuse)

def attempts():
    names, values = [l.split() for l in Path("/proc/net/snmp").open() if l.startswith("Ip:")]
    count = dict(zip(names, values))
    return int(count["OutRequests"]) + int(count["OutNoRoutes"])

def verb(*arguments):
    from kronq.cli import cli
    cli([str(part) for part in arguments], standalone_mode=False)

base, folder = Path(sys.argv[1]), Path(sys.argv[2])
"""

RUN = """
verb("quantize", folder / "whole.safetensors", "-o", folder / "small.safetensors", "--bits", "4")
verb("inspect", folder / "small.safetensors")
out = folder / "slots"
verb("export", folder / "small.safetensors", "--base", base, "-o", out)
import kronq
session = kronq.Session(out, {"one": folder / "small.safetensors"})
assert session.generate("a", adapter="one", max_tokens=4).tokens
assert not attempts(), attempts()
if len(sys.argv) > 3:
    import ctypes
    ctypes.CDLL(None).getaddrinfo(b"kronq.example", b"80", None, ctypes.byref(ctypes.c_void_p()))
    assert attempts()
print("done")
"""

MORE = """
weights = Path(sys.argv[3])
text = folder / "text.jsonl"
text.write_text('{"question": "a", "choices": ["b", "c"], "answer": 1}\\n' * 4)
small = folder / "small.safetensors"
verb("quantize", folder / "whole.safetensors", "-o", small, "--bits", "4")
verb("plan", weights / "config.json")
verb("train", weights, text, "-o", folder / "trained", "--rank", "2", "--steps", "1")
verb("calibrate", small, "--base", base, "--calibration", text, "--cache", folder / "cache")
verb("score", small, "--base", base, "--tasks", text)
verb("pool", "add", folder / "pool", small)
verb("compare", folder / "whole.safetensors", "--bits", "4")
verb("convert", small, "-o", folder / "peft", "--to", "lora")
verb("basis", weights, "-o", folder / "basis.safetensors", "--rank", "2")
(folder / "study.yaml").write_text("families: {a: {family: lora, rank: 2}}\\n"
    "training: {steps: 1}\\ntasks: {t: {train: text.jsonl, test_share: 0}}\\n")
verb("study", folder / "study.yaml", "-o", folder / "study", "--base", weights, "--onnx", base)
assert not attempts(), attempts()
print("done")
"""


def can_be_alone() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_be_alone(), reason="needs Linux's unshare")
def test_no_verb_needs_or_tries_a_network(tmp_path: Path, tiny_base: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    rng = np.random.default_rng(0)
    layers = {"model.layers.0.self_attn.q_proj": kron(rng, a=(4, 4), b=(16, 16))}
    adapter = kronq.quantize(kronq.Adapter(layers), kronq.Float16())
    kronq.save(adapter, tmp_path / "whole.safetensors")
    run_alone(SETUP + RUN, tiny_base, tmp_path, "control")


@pytest.mark.slow
@pytest.mark.skipif(not can_be_alone(), reason="needs Linux's unshare")
def test_nor_do_planning_training_and_studies(
    tmp_path: Path, tiny_base: Path, tiny_hf: Path
) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    layers = {"model.layers.0.self_attn.q_proj": kron(rng, a=(4, 4), b=(16, 16))}
    kronq.save(kronq.Adapter(layers), tmp_path / "whole.safetensors")
    run_alone(SETUP + MORE, tiny_base, tmp_path, tiny_hf)


def run_alone(script: str, *arguments: object) -> None:
    command = [*ALONE, sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.endswith("done\n"), done.stderr


def test_the_builder_runs_without_telemetry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['HF_HUB_OFFLINE'])"
    monkeypatch.setattr(builder, "_builder_command", lambda *_: [sys.executable, "-c", script])
    lines: list[str] = []
    options = builder.BuildOptions("fp32")
    with pytest.raises(KronqError, match="builder failed"):
        builder.run_builder(tmp_path, tmp_path, tmp_path, options, lines.append)
    assert lines == ["1 1"]
