"""Changes good files and reads them: one line, a second and little memory for each."""

from __future__ import annotations

import json
import random
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kronq.error_codes import CODES
from kronq.errors import KronqError
from tests.attacks import costs, hostile
from tests.attacks.adapter_files import GOOD, SEALED, UNSEALED
from tests.attacks.gguf_files import change_gguf
from tests.attacks.mutations import (
    change_bytes,
    change_json,
    change_tensors,
    change_unsealed,
    json_bytes,
)
from tests.attacks.protobufs import change_model
from tests.attacks.readers import READERS

SECONDS = 1.0
"""CPU time that one file may take."""
HANG_SECONDS = 10.0
"""CPU time after which it is stopped."""
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
    if path.name == UNSEALED:
        return change_unsealed(rng, data)
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


@dataclass(frozen=True)
class Attempt:
    """What reading one changed file came to.

    Attributes:
        refused: Whether it was refused, in one line.
        seconds: CPU time that it took.
        megabytes: Most memory that it took.
    """

    refused: bool
    seconds: float
    megabytes: float


def attempt(name: str, seed: int, good: Path, folder: Path) -> Attempt:
    """Changes a copy of good files and reads it.

    Raises:
        AssertionError: An error outside of the family or of more than a line, a hang, or too much
            time or memory, each time of three: what is made only once is there the next time.
    """
    for _ in range(3):
        done = _attempt_once(name, seed, good, folder)
        if done.seconds < SECONDS and done.megabytes < MEGABYTES:
            return done
    raise AssertionError(f"{name}, seed {seed}: {done}")


def _attempt_once(name: str, seed: int, good: Path, folder: Path) -> Attempt:
    rng = random.Random(seed)  # noqa: S311
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    change_file(rng, rng.choice(READERS[name].changed(folder)))
    memory, begun = costs.reset_peak(), time.process_time()
    refused = False
    try:
        with (
            costs.stopped_after(HANG_SECONDS),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
        ):
            warnings.simplefilter("ignore")
            READERS[name].read(folder, rng)
    except KronqError as error:
        refused = True
        assert "\n" not in str(error), (name, seed)  # noqa: PT017
        assert len(str(error)) < 50_000, (name, seed)  # noqa: PT017
        assert error.code in CODES, (name, seed)  # noqa: PT017
    except (Exception, costs.HangError) as error:
        raise AssertionError(f"{name}, seed {seed}") from error
    return Attempt(refused, time.process_time() - begun, costs.peak_megabytes() - memory)
