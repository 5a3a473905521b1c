"""formats/js, the reader in JavaScript: its own tests, and its factors beside kronq's."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError
from kronq.model.delta import ONE
from kronq.quantization.config_names import config_for
from tests import adapters
from tests.attacks import test_manifests, test_streams, test_tensor_files, test_widths
from tests.attacks.hostile import seal_anew
from tests.attacks.mutations import change_tensors
from tests.paths import ROOT

READER = ROOT / "formats/js"
GOLDEN = sorted((ROOT / "formats/golden").rglob("*.safetensors"))
REFUSED = "refused"
CHANGES = 60
"""Changes of each golden file."""
PYTHON_ONLY = "recipe with a bad expression"
"""A regular expression of Python's, which no other program can check."""

BOTH_WRONG = {
    "a number of 10,000 digits",
    "empty groups",
    "a template of 10^10,000 names",
    "a template with a long name",
    "a matrix of 2^31",
    "a matrix turned",
    "a number with a zero in front",
    "factors that do not multiply",
    "more channels",
}
"""Attacks in which the manifest is wrong, and does not fit the tensors: readers name either."""


def run(name: str, *arguments: object, folder: Path = READER, given: str = "") -> str:
    """Runs node or npm; returns what it prints."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"needs {name}")
    done = subprocess.run(
        [program, *map(str, arguments)],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_by_node(paths: Iterable[Path], *options: str) -> list[str]:
    """Returns the digest of each file, or ``REFUSED``."""
    program = ROOT / "tests/formats/dump_factors.mjs"
    return run("node", program, *options, given="\n".join(map(str, paths))).split()


def read_by_kronq(path: Path, *, verify: bool) -> str:
    try:
        with np.errstate(all="ignore"):
            return digest(kronq.load(path, verify=verify))
    except KronqError:
        return REFUSED


def digest(adapter: kronq.Adapter) -> str:
    found = hashlib.sha256()
    for name in sorted(adapter):
        delta = adapter[name]
        found.update(name.encode())
        found.update(np.array([delta.scale, *delta.shape], dtype=np.float64).tobytes())
        for product in (delta.a, delta.b):
            for matrix in () if product is ONE else product.matrices:
                values = matrix.float32()
                found.update(np.where(np.isnan(values), np.float32("nan"), values).tobytes())
    return found.hexdigest()


def write_each(contents: dict[str, bytes], folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{i}.safetensors" for i, name in enumerate(contents)}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths


def test_its_own_tests_pass() -> None:
    run("node", "--test", "test/")


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
    paths += GOLDEN
    assert read_by_node(paths) == [digest(kronq.load(path)) for path in paths]


@pytest.mark.parametrize(
    "attacks",
    [test_manifests, test_streams, test_tensor_files, test_widths],
    ids=lambda m: m.__name__,
)
def test_it_refuses_the_attacks_that_kronq_refuses(attacks, tmp_path: Path) -> None:
    paths = write_each(attacks.ATTACKS, tmp_path)
    found = dict(zip(paths, read_by_node(paths.values(), "--codes"), strict=True))
    assert {name for name, told in found.items() if not told.startswith(REFUSED)} <= {PYTHON_ONLY}
    expected = {name: f"{REFUSED}:{refusal(path).code}" for name, path in paths.items()}
    differing = {name for name in paths if found[name] != expected[name]}
    assert differing <= {PYTHON_ONLY, *BOTH_WRONG}


def refusal(path: Path) -> KronqError:
    """The error of kronq's own reader."""
    with pytest.raises(KronqError) as error:
        for delta in kronq.load(path).values():
            [matrix.float32() for matrix in delta.matrices]
    return error.value


def test_it_reads_and_refuses_changed_files_as_kronq_does(tmp_path: Path) -> None:
    """Compares no checksums, which would notice every change."""
    changed = {
        f"{path}, seed {seed}": change_tensors(random.Random(seed), path.read_bytes())  # noqa: S311
        for path in GOLDEN
        for seed in range(CHANGES)
    }
    # A whole number of pydantic's is 0 and 0.0 but not -0.0; JavaScript does not tell them apart.
    changed = {name: data for name, data in changed.items() if b"-0.0" not in data}
    paths = write_each(changed, tmp_path)
    read = read_by_node(paths.values(), "--no-verify")
    found = dict(zip(paths, read, strict=True))
    expected = {name: read_by_kronq(path, verify=False) for name, path in paths.items()}
    assert found == expected
    assert 0.05 < sum(told != REFUSED for told in found.values()) / len(found) < 0.95


def test_it_reads_and_refuses_changed_files_with_a_new_checksum(tmp_path: Path) -> None:
    """An attacker computes the checksum anew: each reader believes it, and goes on as the other."""
    seeds = range(1000, 1000 + CHANGES)
    changed = {
        f"{path.name}, seed {seed}": seal_anew(
            change_tensors(random.Random(seed), path.read_bytes())  # noqa: S311
        )
        for path in GOLDEN
        if path.parent.name == "golden"  # version 4, which has checksums
        for seed in seeds
    }
    changed = {name: data for name, data in changed.items() if b"-0.0" not in data}
    paths = write_each(changed, tmp_path)
    found = dict(zip(paths, read_by_node(paths.values()), strict=True))
    expected = {name: read_by_kronq(path, verify=True) for name, path in paths.items()}
    assert found == expected
    assert 0.1 < sum(told != REFUSED for told in found.values()) / len(found) < 0.9


def test_its_package_reads_the_golden_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installs what ``npm pack`` makes into an empty folder, and runs ``test/`` on it."""
    (name,) = json.loads(run("npm", "pack", "--json", "--pack-destination", tmp_path))
    packed = {file["path"] for file in name["files"]}
    sources = {path.name for path in READER.iterdir() if path.suffix in (".js", ".ts")}
    assert packed == sources | {"package.json", "README.md"}
    work = tmp_path / "project/js"
    shutil.copytree(READER / "test", work / "test")
    shutil.copytree(ROOT / "formats/golden", work.parent / "golden")
    for test in (work / "test").iterdir():
        text = test.read_text("utf-8")
        assert '"../index.js"' in text
        test.write_text(text.replace('"../index.js"', '"kronq-packed"'), "utf-8")
    (work / "package.json").write_text('{"type": "module"}')
    run("npm", "install", "--offline", "--no-audit", tmp_path / name["filename"], folder=work)
    monkeypatch.setenv("KRONQ_MUTATIONS", "50")
    run("node", "--test", "test/", folder=work)
