"""The builder's process: it ends with kronq's, and knows nothing of repositories around it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from kronq.base import builder

PARENT = """
import sys
from pathlib import Path
from kronq.base import builder
folder = Path(sys.argv[1])
slow = "import os, sys, threading, time; sys.path.insert(0, sys.argv[1]); import builder_process"
slow += "; threading.Thread(target=builder_process._end_with_parent, daemon=True).start()"
slow += "; print(os.getpid(), flush=True); time.sleep(60)"
here = str(Path(builder.__file__).parent)
builder._builder_command = lambda *_: [sys.executable, "-c", slow, here]
options = builder.BuildOptions("fp32")
builder.run_builder(folder, folder, folder, options, lambda line: print(line, flush=True))
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_it_ends_when_kronq_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    limit = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_no_commit_of_a_repository_around_it_is_in_the_model(tiny_base: Path) -> None:
    """The builder asks git for it, in the folder that its package is installed below."""
    genai = pytest.importorskip("onnxruntime_genai")
    model = onnx.load(tiny_base / "model.onnx", load_external_data=False)
    commit = str(getattr(genai, "__commit__", ""))[:7]
    version, _, suffix = model.producer_version.partition("+")
    assert version
    assert suffix in ("", commit)
    assert builder._ENVIRONMENT["GIT_DIR"] == os.devnull
