"""A killed command leaves nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import EXAMPLE

CODE = """
import os, sys, time
def wait(_):
    print("ready", flush=True)
    time.sleep(60)
os.fsync = wait
from kronq.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("verb", [["quantize", "--bits", "8"], ["convert", "--to", "peft"]])
def test_a_signal_deletes_what_is_unfinished(tmp_path: Path, verb: list[str], name: str) -> None:
    number = getattr(signal, name)
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{name} is ignored here, as nohup has it")
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-c", CODE, verb[0], str(EXAMPLE), "-o", str(out), "-q", *verb[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert list(tmp_path.iterdir())
        child.send_signal(number)
        assert child.wait(timeout=30) == 128 + number
    assert not list(tmp_path.iterdir())
