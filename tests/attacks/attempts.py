"""Changes good files and reads them: one line, a second and little memory for each."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from kronq.errors import KronqError
from tests.attacks import hostile
from tests.attacks.adapter_files import GOOD, SEALED
from tests.attacks.gguf_files import change_gguf
from tests.attacks.mutations import change_bytes, change_json, change_tensors, json_bytes
from tests.attacks.protobufs import change_model
from tests.attacks.readers import READERS

SECONDS = 1.0
"""CPU time that one file may take."""
MEGABYTES = 256
"""Growth of the process that one file may cause."""


def good_files(name: str, folder: Path) -> Path:
    """Makes a reader's good files and reads them once; returns their folder."""
    good = folder / "good files"
    good.mkdir(parents=True)
    READERS[name].make(good)
    copy = folder / GOOD
    shutil.copytree(good, copy)
    READERS[name].read(copy, random.Random(0))  # noqa: S311
    return good


def change_file(rng: random.Random, path: Path) -> None:
    """Changes a file by its kind, once or a few times."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        data = path.read_bytes()
        try:
            path.write_bytes(_changed(rng, path, data))
        except Exception:  # it was damaged already
            path.write_bytes(change_bytes(rng, data))


def _changed(rng: random.Random, path: Path, data: bytes) -> bytes:
    if path.name == SEALED:
        return hostile.seal_anew(change_tensors(rng, data))
    if path.suffix == ".safetensors":
        return change_tensors(rng, data)
    if path.suffix == ".onnx":
        return change_model(rng, data)
    if path.suffix == ".gguf":
        return change_gguf(rng, data)
    if path.suffix == ".jsonl":
        lines = data.split(b"\n")
        i = rng.randrange(len(lines))
        lines[i] = json_bytes(rng, change_json(rng, json.loads(lines[i])))
        return b"\n".join(lines)
    if path.suffix == ".json":
        return json_bytes(rng, change_json(rng, json.loads(data)))
    return change_bytes(rng, data)


def peak_megabytes() -> float:
    """Returns the most memory that this process has ever had."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def attempt(name: str, seed: int, good: Path, folder: Path) -> bool:
    """Changes a copy of good files and reads it; tells whether that was refused."""
    rng = random.Random(seed)  # noqa: S311
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    change_file(rng, rng.choice(READERS[name].changed(folder)))
    memory, begun = peak_megabytes(), time.process_time()
    refused = False
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            READERS[name].read(folder, rng)
    except KronqError as error:
        refused = True
        assert "\n" not in str(error), (name, seed)  # noqa: PT017
        assert len(str(error)) < 50_000, (name, seed)  # noqa: PT017
    except Exception as error:
        raise AssertionError(f"{name}, seed {seed}") from error
    assert time.process_time() - begun < SECONDS, (name, seed)
    assert peak_megabytes() - memory < MEGABYTES, (name, seed)
    return refused
