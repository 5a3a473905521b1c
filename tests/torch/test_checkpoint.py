"""A checkpoint that is damaged, or was made to look whole, is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kronq.io.array_checksum import CHECKSUM, array_checksum
from kronq.io.files import write_file
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensor_writer import tensor_bytes
from kronq.torch.training.checkpoint import CheckpointFile, History
from tests.attacks.refusals import assert_code

Arrays = dict[str, Any]
ONES = np.ones((2, 3), np.float32)


@pytest.fixture
def parts(tmp_path: Path) -> tuple[CheckpointFile, dict[str, Any], torch.optim.AdamW]:
    """A checkpoint of a layer after a step."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    file = CheckpointFile(tmp_path / "x.checkpoint.safetensors", "this one")
    parameters = dict(layer.named_parameters())
    file.save(parameters, optimizer, History([2.5], [100]))
    return file, parameters, optimizer


def seal(file: CheckpointFile, arrays: Arrays, told: dict[str, str]) -> None:
    """Changes a checkpoint, with a checksum of what it then is."""
    found = open_tensors(file.path)
    tensors = {name: np.array(found.array(name)) for name in found.entries} | arrays
    tensors = {name: array for name, array in tensors.items() if array is not None}
    texts = {k: v for k, v in found.metadata.items() if k != CHECKSUM} | told
    texts = {key: text for key, text in texts.items() if text}
    texts[CHECKSUM] = array_checksum(tensors, texts)
    write_file(file.path, tensor_bytes(tensors, texts), force=True)


CASES: dict[str, tuple[str, Arrays, dict[str, str]]] = {
    "a smaller parameter": ("tensors", {"weight": ONES[:, :1]}, {}),
    "another type": ("tensors", {"weight": ONES.astype(np.float16)}, {}),
    "no moment": ("tensors", {"weight.exp_avg": None}, {}),
    "a moment of another shape": ("tensors", {"weight.exp_avg": ONES[:1]}, {}),
    "steps by the row": ("tensors", {"weight.step": ONES[:, 0]}, {}),
    "one more": ("tensors", {"evil": ONES}, {}),
    "not a number": ("not-finite", {"weight": np.nan * ONES}, {}),
    "negative squares": ("format", {"weight.exp_avg_sq": -ONES}, {}),
    "steps before the first": ("format", {"weight.step": np.float32(-5)}, {}),
    "no losses": ("format", {}, {"losses": ""}),
    "losses deep in each other": ("format", {}, {"losses": "[" * 100_000}),
    "one loss": ("format", {}, {"losses": "7"}),
    "losses that are a mapping": ("format", {}, {"losses": "{}"}),
    "losses in lists": ("format", {}, {"losses": "[[1]]"}),
    "a loss that is no number": ("format", {}, {"losses": "[NaN]"}),
    "a loss without end": ("format", {}, {"losses": "[1" + "0" * 400 + "]"}),
    "no sizes": ("format", {}, {"sizes": "null"}),
    "a size without end": ("format", {}, {"sizes": "[1e999]"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_no_training_writes(case: str, parts) -> None:
    file, parameters, optimizer = parts
    before = {name: p.detach().clone() for name, p in parameters.items()}
    code, arrays, told = CASES[case]
    seal(file, arrays, told)
    assert_code(code, lambda: file.load(parameters, optimizer), file.path)
    assert all(torch.equal(before[name], p) for name, p in parameters.items())


def test_every_flipped_bit_is_noticed(parts) -> None:
    file, parameters, optimizer = parts
    assert file.load(parameters, optimizer) == History([2.5], [100])
    data = file.path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for at in range(start, len(data)):
        file.path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        assert_code("checksum", lambda: file.load(parameters, optimizer), file.path)
    file.path.write_bytes(data[:-1])
    assert_code("truncated", lambda: file.load(parameters, optimizer), file.path)


def test_a_checkpoint_that_was_sealed_anew_is_read(parts) -> None:
    file, parameters, optimizer = parts
    seal(file, {"weight": 3 * ONES}, {"losses": json.dumps([1.0, 2.0]), "sizes": "[]"})
    assert file.load(parameters, optimizer) == History([1.0, 2.0], [])
    assert torch.equal(parameters["weight"], torch.full((2, 3), 3.0))
