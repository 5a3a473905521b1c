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

SCRIPT = """
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
    command = [*ALONE, sys.executable, "-c", SCRIPT, str(tiny_base), str(tmp_path), "control"]
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
