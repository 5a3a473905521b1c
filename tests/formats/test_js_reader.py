"""formats/js, the reader in JavaScript: its own tests, and its factors beside kronq's."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.model.delta import ONE
from kronq.quantization.config_names import config_for
from tests import adapters
from tests.paths import ROOT

READER = ROOT / "formats/js"


def node(*arguments: object) -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("needs node")
    done = subprocess.run(
        [program, *map(str, arguments)], cwd=READER, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digest(adapter: kronq.Adapter) -> str:
    found = hashlib.sha256()
    for name in sorted(adapter):
        delta = adapter[name]
        found.update(name.encode())
        found.update(np.array([delta.scale, *delta.shape], dtype=np.float64).tobytes())
        for product in (delta.a, delta.b):
            for matrix in () if product is ONE else product.matrices:
                found.update(np.ascontiguousarray(matrix.float32()).tobytes())
    return found.hexdigest()


def test_its_own_tests_pass() -> None:
    node("--test", "test/")


def test_it_reads_the_factors_that_kronq_reads(tmp_path: Path) -> None:
    adapter = adapters.adapter(layers=3)
    configs = {f"{m}-{b}": config_for(m, b) for m in ("native", "rtn") for b in (2, 3, 4, 8)}
    configs |= {
        "floats": config_for("fp16", 16),
        "groups": kronq.Uniform(bits=3, axis="row", group_size=5, a_bits=8),
        "compact": kronq.Compact(size=1500),
        "fine": kronq.Compact(size=3000, refit="unbiased"),
    }
    paths = [tmp_path / f"{name}.safetensors" for name in configs]
    for config, path in zip(configs.values(), paths, strict=True):
        kronq.save(kronq.quantize(adapter, config), path)
    paths += sorted((ROOT / "formats/golden").glob("*.safetensors"))
    found = node(ROOT / "tests/formats/dump_factors.mjs", *paths).split()
    assert found == [digest(kronq.load(path)) for path in paths]


def test_it_packs_what_it_imports() -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
    done = subprocess.run(
        [npm, "pack", "--dry-run", "--json"], cwd=READER, capture_output=True, check=True
    )
    packed = {file["path"] for file in json.loads(done.stdout)[0]["files"]}
    sources = {path.name for path in READER.iterdir() if path.suffix in (".js", ".ts")}
    assert packed == sources | {"package.json", "README.md"}
