"""Streams with wrong step offsets are refused."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError
from kronq.packed import pack_adapter
from kronq.trellis.layer_shape import LayerShape
from kronq.trellis.norm_classes import NO_OFFSETS, norm_class_differences
from kronq.trellis.range_coder import encode_runs
from kronq.trellis.stream_layout import lay_out_stream
from tests.attacks import hostile
from tests.attacks.hostile import assert_refused, bounded_cost
from tests.formats.contents import golden

STEPS = pack_adapter(golden()["layer_steps"])
FLAT_STEPS = pack_adapter(golden()["coded"])
LAYERS = [LayerShape((((6, 2), (2, 5)),), 1.0)] * 3
NORM_CLASSES = [[np.array([8, 3], dtype=np.int32)]] * 3


def manifest(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    return hostile.change_manifest(data, change)


def packed_file(stream: bytes, **codes: Any) -> bytes:
    """Returns a packed file of three layers with this stream."""
    roles = {"B1": {"shape": [6, 2]}, "B2": {"shape": [2, 5]}}
    group = {"layers": ["h.{0-2}"], "shape": [6, 5], "scale": 1.0, **roles}
    content = {
        "version": 3,
        "codes": {"step": 0.01, "layer_steps": True, **codes},
        "groups": [group],
    }
    entry = {"dtype": "U8", "shape": [len(stream)], "data_offsets": [0, len(stream)]}
    return hostile.join({"__metadata__": {"kronq": json.dumps(content)}, "codes": entry}, stream)


def stream(third: list[int], *, levels: bool = False) -> bytes:
    """Encodes good norm classes, the given third list, and levels that are all zero, if any."""
    numbers = [*norm_class_differences(LAYERS, NORM_CLASSES), np.array(third, dtype=np.int32)]
    runs = lay_out_stream(LAYERS, NORM_CLASSES, [NO_OFFSETS] * 3).runs if levels else []
    return encode_runs(numbers, runs, [np.zeros(run.size, dtype=np.int32) for run in runs])


def assert_refused_when_decoded(path: Path, reason: str) -> None:
    """Checks that a file is refused in one line, at the latest when its stream is decoded."""
    with bounded_cost(path), warnings.catch_warnings(), pytest.raises(KronqError) as error:
        warnings.simplefilter("error")
        for delta in kronq.load(path).values():
            [m.float32() for m in delta.matrices]
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert reason in str(error.value)


FIRST, LATER = [0] * 3, [0] * 6


@pytest.mark.parametrize(
    "third",
    [
        [401, 0, 0, *LATER],
        [0, -401, 0, *LATER],
        [*LATER, 0, 0, 401],
        [300, 0, 0, 101, 0, 0, 0, 0, 0],  # a sum that is too large of differences that are not
        [*FIRST, 0, 0, -(2**20), 0, 0, 2**20],  # and back again
        [2**20] * 9,
    ],
    ids=str,
)
def test_steps_out_of_range(tmp_path: Path, third: list[int]) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed_file(stream(third)))
    assert_refused_when_decoded(path, "a layer's step is out of range")


@pytest.mark.parametrize("own", [400, -400])
def test_the_widest_steps_are_read(tmp_path: Path, own: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed_file(stream([own, 0, 0, *LATER], levels=True)))
    assert all(not delta.dense().any() for delta in kronq.load(path).values())


@pytest.mark.parametrize(("step", "own"), [(1e300, 0), (1e70, 400), (1e308, 400)])
def test_scales_that_are_not_finite(tmp_path: Path, step: float, own: int) -> None:
    """Covers scales beyond float32, by the file's step or by a layer's, and beyond float64."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed_file(stream([own, 0, 0, *LATER], levels=True), step=step))
    assert_refused_when_decoded(path, "a scale is not finite")


@pytest.mark.parametrize("end", [bytes(11) + b"\1", bytes(8) + b"\1" + bytes(15), b"\xff" * 400])
def test_streams_that_go_on_after_the_last_code(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed_file(stream([0] * 9, levels=True) + end))
    assert_refused_when_decoded(path, "longer than its codes")


def test_streams_that_zeros_fill_up(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed_file(stream([0] * 9, levels=True) + bytes(400)))
    assert all(not delta.dense().any() for delta in kronq.load(path).values())


def in_version_2(manifest: dict[str, Any]) -> None:
    manifest["version"] = 2
    del manifest["codes"]["layer_steps"], manifest["recipe"]["task"]


def in_version_3(manifest: dict[str, Any]) -> None:
    manifest["version"] = 3
    manifest["codes"]["layer_steps"] = True


@pytest.mark.parametrize(
    "data",
    [
        manifest(STEPS, in_version_2),
        manifest(FLAT_STEPS, in_version_3),
        packed_file(stream([])),
        packed_file(stream([1, 2])),
        packed_file(b"\xff" * 64),
    ],
    ids=["steps as levels", "levels as steps", "no steps", "too few", "all ones"],
)
def test_a_third_list_that_is_another_thing(tmp_path: Path, data: bytes) -> None:
    """Reads streams with another meaning: any bits decode to numbers that are finite or refused."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with bounded_cost(path), contextlib.suppress(KronqError):
        for delta in kronq.load(path).values():
            assert all(np.isfinite(m.float32()).all() for m in delta.matrices)


ATTACKS: dict[str, bytes] = {
    "steps in version 1": manifest(STEPS, lambda m: m.update(version=1)),
    "steps in version 2": manifest(
        STEPS, lambda m: (m["recipe"].pop("task"), m.update(version=2))
    ),
    "version 3 without steps": manifest(FLAT_STEPS, lambda m: m.update(version=3)),
    "steps without coded matrices": hostile.with_manifest(
        lambda m: m.update(version=3, codes={"step": 1.0, "layer_steps": True})
    ),
    "steps without a step": manifest(STEPS, lambda m: m["codes"].pop("step")),
    "steps as a number": manifest(STEPS, lambda m: m["codes"].update(layer_steps=1)),
    "steps as text": manifest(STEPS, lambda m: m["codes"].update(layer_steps="true")),
    "steps as a list": manifest(STEPS, lambda m: m["codes"].update(layer_steps=[1, 2, 3])),
    "half a word too much": STEPS[:-2],
}  # fmt: skip


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS.keys())
def test_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert_refused(path)
