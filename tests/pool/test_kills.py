"""A writer is killed at random moments: the pool opens, and has all that was said to be done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from kronq import Native, Pool, quantize, save
from kronq.pool.check import check
from kronq.pool.compaction import compact
from kronq.pool.convert import convert_adapter
from kronq.pool.writing import append, remove
from tests.adapters import adapter
from tests.pool.records import is_right, record

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")

NAMES = "abcdefgh"


def work(folder: Path, seed: int, said: int) -> None:
    """Changes a pool for ever, and says each change before it begins and when it is done."""
    rng = np.random.default_rng(seed)
    for number in range(1, 10**6):
        name, kind = str(rng.choice(list(NAMES))), rng.random()
        version = seed * 10**6 + number
        if not (folder / "index.sqlite").exists():
            kind = 1.0
        if kind < 0.1:
            os.write(said, b"? compact 0\n")
            compact(folder)
        elif kind < 0.3:
            os.write(said, f"? {name} -1\n".encode())
            if name in Pool.open(folder):
                remove(folder, [name])
        else:
            os.write(said, f"? {name} {version}\n".encode())
            append(folder, [record(name, version, int(rng.integers(100, 30_000)))], force=True)
        os.write(said, b"done\n")


def killed(folder: Path, seed: int, lines: int, seconds: float) -> list[str]:
    """What a writer has said, which is killed so long after so many lines."""
    hear, said = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(folder, seed, said)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)
    os.close(said)
    text = b""
    while text.count(b"\n") < lines:
        text += os.read(hear, 1000)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)  # it did not end by itself
    with os.fdopen(hear) as heard:
        return (text.decode() + heard.read()).splitlines()


def kill_many(folder: Path, times: int) -> int:
    """Kills writers of one pool; returns how many changes they had said were done."""
    expected: dict[str, set[int]] = {name: {-1} for name in NAMES}  # version, or −1 for none
    rng = np.random.default_rng(times)
    done, doing, version = 0, "", -1
    for seed in range(times):
        for line in killed(folder, seed, int(rng.integers(1, 8)), 0.02 * rng.random()):
            if line == "done":
                done += 1
                if doing in expected:
                    expected[doing] = {version}
            else:
                _, doing, number = line.split()
                version = int(number)
                if doing in expected:
                    expected[doing] = expected[doing] | {version}
        if not (folder / "index.sqlite").exists():
            continue
        with Pool.open(folder) as pool:
            for name, versions in expected.items():
                found = pool.find(name).layers if name in pool else -1
                assert found in versions
                assert name not in pool or is_right(pool, name)
                expected[name] = {found}
    return done


def test_a_writer_that_is_killed_a_few_times(tmp_path: Path) -> None:
    done = kill_many(tmp_path / "pool", 12)
    assert done > 12
    append(tmp_path / "pool", [record("last")])
    compact(tmp_path / "pool")
    left = {path.name.partition("-")[0] for path in (tmp_path / "pool").iterdir()}
    assert left == {"index.sqlite", "records"}
    with Pool.open(tmp_path / "pool") as pool:
        assert (tmp_path / "pool" / pool._view.head.file).stat().st_size == pool._view.head.end


@pytest.mark.slow
def test_a_writer_that_is_killed_many_times(tmp_path: Path) -> None:
    assert kill_many(tmp_path / "pool", 300) > 300
    compact(tmp_path / "pool")
    left = sorted(path.name.partition("-")[0] for path in (tmp_path / "pool").iterdir())
    assert left == ["index.sqlite", "records"]


@pytest.mark.slow
def test_an_import_that_is_killed_again_and_again_ends(tmp_path: Path) -> None:
    for i in range(80):
        source = quantize(adapter(i, layers=1, kinds=("kron",)), Native(bits=4))
        save(source, tmp_path / f"many/m{i}.safetensors")
    command = [sys.executable, "-m", "kronq", "pool", "add", "pool", "many", "--workers", "2"]
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(8):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 1 + 2 * rng.random()
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
        folder = tmp_path / "pool"
        counts.append(len(Pool.open(folder)) if (folder / "index.sqlite").exists() else 0)
    assert counts == sorted(counts)  # nothing that was there is lost
    subprocess.run(command, cwd=tmp_path, check=True)
    with Pool.open(folder) as pool:
        assert len(pool) == 80
        for i in (0, 40, 79):
            again = convert_adapter("again", tmp_path / f"many/m{i}.safetensors")
            assert pool.find(f"m{i}").digest == again.entry.digest
    assert check(folder).problems == {}
    assert sorted(path.name for path in folder.iterdir()) == ["index.sqlite", "records-1"]
