"""OpenVINO's execution provider; ``make providers`` installs it in .cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import kronq
from kronq import Session
from tests.conftest import CACHE
from tests.evaluate.tiny import tiny_adapter

FOLDER = CACHE / "openvino"
OPENVINO, CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"
IDS = [3, 14, 15, 92, 65, 35, 89, 79]
LOGITS = """
import json, sys, numpy, kronq
session = kronq.Session(sys.argv[1], provider="openvino", provider_options={"device_type": "CPU"})
numpy.save(sys.argv[2], session.logits(json.loads(sys.argv[3])))
print(json.dumps(dict(session.report.nodes)))
"""

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no OpenVINO: 'make providers'")


def python(*arguments: object) -> str:
    """Runs Python with OpenVINO's onnxruntime in front of the environment's own."""
    paths = [str(FOLDER), *(path for path in sys.path if path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture(scope="module")
def exported(tiny_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("openvino") / "out"
    kronq.export_onnx(tiny_adapter(), tiny_base, out, form="branch")
    return out


def test_logits_of_an_adapted_model(exported, tmp_path):
    nodes = json.loads(python("-c", LOGITS, exported, tmp_path / "found.npy", json.dumps(IDS)))
    assert nodes[OPENVINO] > 10 * nodes.get(CPU, 0)
    expected = Session(exported, device="cpu").logits(IDS)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-4)


def test_text(exported):
    run = ("-m", "kronq", "run", exported, "--prompt", "abc", "--max-tokens", 8, "--json")
    report = json.loads(python(*run, "--provider", "openvino", "--nodes"))
    assert report["provider"] == OPENVINO
    assert report["nodes"][OPENVINO] > 0
    expected = Session(exported, device="cpu").generate("abc", max_tokens=8)
    assert tuple(report["tokens"]) == expected.tokens
