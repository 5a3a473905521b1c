"""Well-formed safetensors files with a wrong manifest are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kronq
from kronq.errors import UnsupportedError
from kronq.packed.manifest import VERSION
from tests.attacks import hostile
from tests.attacks.hostile import assert_refused, with_manifest, with_text

Manifest = dict[str, Any]
KRON, LORA = 0, 1  # the two groups of the good file


def group(index: int, **fields: Any) -> bytes:
    return with_manifest(lambda m: m["groups"][index].update(fields))


def role(name: str, **fields: Any) -> bytes:
    return with_manifest(lambda m: m["groups"][KRON][name].update(fields))


def top(**fields: Any) -> bytes:
    return with_manifest(lambda m: m.update(fields))


def recipe(**fields: Any) -> bytes:
    return with_manifest(lambda m: m["recipe"].update(fields))


def task(version: int = 3, **fields: Any) -> bytes:
    """Returns a manifest with the check of a task, in which ``fields`` are changed."""
    spec = {"data": "dev.jsonl", "examples": 60, "max_loss_increase": 0.01, "loss_increase": 0.005}
    spec |= {"interval": [0.0, 0.01], **fields}
    return change(lambda m: (m.update(version=version), m["recipe"].update(task=spec)))


def names(*templates: str) -> bytes:
    return group(KRON, layers=list(templates))


def change(edit: Callable[[Manifest], object]) -> bytes:
    return hostile.change_manifest(hostile.good(), edit)


TEXT = hostile.split(hostile.good())[0]["__metadata__"]["kronq"]
NAME = "model.layers.{0-2}.kron"

ATTACKS: dict[str, bytes] = {
    "not JSON": with_text("version 1"),
    "empty": with_text(""),
    "a list": with_text("[]"),
    "null": with_text("null"),
    "nested 100,000 deep": with_text("[" * 100_000),
    "nested in a field": with_text('{"version":1,"base_model":' + '{"a":' * 5000),
    "a number of 10,000 digits": with_text('{"version":' + "1" * 10_000 + "}"),
    "a field twice": with_text(TEXT[:-1] + ',"version":1}'),
    "no version": change(lambda m: m.pop("version")),
    "version 0": top(version=0),
    "version as text": top(version="1"),
    "version true": top(version=True),
    "version 2 without coded matrices": top(version=2),
    "version 3 without anything new": top(version=3),
    "widths in version 1": role("B1", bits=None, widths=True),
    "no scales in version 1": role("B1", scaled=False),
    "an unknown field": top(comment="hello"),
    "an unknown field in a group": group(KRON, comment="hello"),
    "an unknown field in a matrix": role("B1", zero_point=0),
    "an unknown role": group(KRON, B3={"shape": [1, 1], "dtype": "float16"}),
    "no groups": change(lambda m: m.pop("groups")),
    "empty groups": top(groups=[]),
    "groups by name": top(groups={"0": {}}),
    "a group without layers": group(KRON, layers=[]),
    "a group without B1": change(lambda m: m["groups"][KRON].pop("B1")),
    "A2 without A": change(lambda m: m["groups"][KRON].update(A2=m["groups"][KRON].pop("A"))),
    "scale NaN": group(KRON, scale=float("nan")),
    "scale infinite": group(KRON, scale=float("inf")),
    "scale 1e999": change(lambda m: m).replace(b'\\"scale\\": 0.5', b'\\"scale\\":1e999'),
    "scale as text": group(KRON, scale="0.5"),
    "scale null": group(KRON, scale=None),
    "a default as null": top(cropped_by_base=None),
    "fewer scales than layers": group(KRON, scale=[1.0, 2.0]),
    "more scales than layers": group(KRON, scale=[1.0] * 4),
    "a list of no scales": group(KRON, scale=[]),
    "a layer twice in a group": names("model.layers.{0-1,1}.kron"),
    "a layer in two groups": names("model.layers.{0-2}.lora"),
    "a template of 10^11 names": names("{0-99999999999}"),
    "a template of 10^10,000 names": names("{0-" + "9" * 10_000 + "}"),
    "a template backwards": names("{2-0}"),
    "100,000 templates of 100,000 names": names(*["{0-99999}"] * 100_000),
    "a template with a long name": names("x" * 10**6 + "{0-99999}"),
    "a layer with a long name": names("x" * 501, "a", "b"),
    "a layer without a name": names("", "a", "b"),
    "braces in braces": names("{{0-2}}"),
    "an open brace": names("a{", "b", "c"),
    "two ranges in one template": names("a{0-2}b{0-2}"),
    "empty braces": names("a{}", "b", "c"),
    "a number that is not ASCII": names("a{٣}", "b", "c"),
    "a number with a zero in front": names("a{00-2}"),
    "a range of text": names("a{x-y}", "b", "c"),
    "fewer layers than the tensors": names("model.layers.{0-1}.kron"),
    "more layers than the tensors": names("model.layers.{0-3}.kron"),
    "layers that are not text": group(KRON, layers=[0, 1, 2]),
    "shape larger than the product": group(KRON, shape=[97, 60]),
    "shape of zero": group(KRON, shape=[0, 60]),
    "shape that is negative": group(KRON, shape=[-96, 60]),
    "shape of 2^40": group(KRON, shape=[2**40, 2**40]),
    "shape with three sizes": group(KRON, shape=[96, 60, 1]),
    "shape of fractions": group(KRON, shape=[95.5, 60]),
    "a matrix of 2^31": role("B1", shape=[2**31 - 1, 2**31 - 1]),
    "a matrix of 2^64": role("B1", shape=[2**64, 2**64]),
    "a matrix that is negative": role("B1", shape=[-24, -4]),
    "a matrix turned": role("B1", shape=[4, 24]),
    "factors that do not multiply": role("B1", shape=[32, 3]),
    "other bits": role("B1", bits=3),
    "bits nobody knows": role("B1", bits=5),
    "bits and a dtype": role("B1", dtype="float16"),
    "neither bits nor a dtype": change(lambda m: m["groups"][KRON]["A"].pop("dtype")),
    "bits without an axis": change(lambda m: m["groups"][KRON]["B1"].pop("axis")),
    "an axis without bits": role("A", axis=0),
    "another axis": role("B1", axis=0),
    "axis true": role("B1", axis=True),
    "axis 2": role("B1", axis=2),
    "axis -1": role("B1", axis=-1),
    "a group_size without bits": role("A", group_size=2),
    "a group_size the scales do not have": role("B1", group_size=8),
    "group_size 0": role("B1", group_size=0),
    "group_size -1": role("B1", group_size=-1),
    "a dtype nobody knows": role("A", dtype="float64"),
    "another dtype": role("A", dtype="bfloat16"),
    "recipe bits nobody knows": recipe(bits=-7),
    "recipe bits without end": recipe(bits=10**30),
    "recipe with a bad expression": recipe(layer_bits={"(": 4}),
    "recipe with an error below zero": recipe(relative_error=-1.0),
    "recipe with an unknown axis": recipe(axis="diagonal"),
    "a task in version 1": task(version=1),
    "version 3 without a task": top(version=3),
    "a task with another field": task(comment="hello"),
    "a task with an interval of one": task(interval=[0.0]),
    "a task without examples": task(examples=0),
    "a task with a loss of NaN": task(loss_increase=float("nan")),
    "a task with an accuracy above 1": task(accuracy=1.5),
    "a task with an accuracy of NaN": task(accuracy=float("nan")),
    "base_model that is not text": top(base_model=["a"]),
}  # fmt: skip


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS.keys())
def test_is_refused(tmp_path: Path, data: bytes) -> None:
    assert data != hostile.good()
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert_refused(path)


@pytest.mark.parametrize("version", [VERSION + 1, 10**20])
def test_a_later_version_is_named_as_such(tmp_path: Path, version: int) -> None:
    """Unknown fields of a later version do not hide that it is one."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(top(version=version, planes="many"))
    error = assert_refused(
        path, f"found {version}; expected {VERSION} (hint: a newer kronq wrote it"
    )
    assert isinstance(error, UnsupportedError)


@pytest.mark.parametrize("value", [b"\x00\xfe", b"\x00\x7e", b"\x00\x7c", b"\x00\xfc", b"\x00\xbc"])
@pytest.mark.parametrize("name", ["0.B1.scale", "1.B2.scale"])
def test_scales_that_are_negative_or_not_finite(tmp_path: Path, name: str, value: bytes) -> None:
    """Covers NaN, the infinities and -1 as float16."""
    header, payload = hostile.split(hostile.good())
    start, stop = header[name]["data_offsets"]
    path = tmp_path / "a.safetensors"
    path.write_bytes(hostile.join(header, payload[: stop - 2] + value + payload[stop:]))
    assert start < stop
    assert_refused(path, f"'{name[:4]}' has scales that are negative or not finite")


def test_an_error_names_its_field(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(group(LORA, scale="big"))
    assert_refused(path, "bad manifest at 'groups.1.scale")


def test_tiny_factors_of_a_huge_matrix_cost_nothing_until_they_are_multiplied(
    tmp_path: Path,
) -> None:
    """Factors of 1 MB, of rank 1 and 2^18 entries each, stand for a ΔW of 256 GB."""
    side = 2**18
    spec = {"dtype": "float16"}
    manifest = {
        "version": 1,
        "groups": [
            {
                "layers": ["x"],
                "shape": [side, side],
                "scale": 1,
                "B1": {"shape": [side, 1], **spec},
                "B2": {"shape": [1, side], **spec},
            }
        ],
    }
    header = {
        "__metadata__": {"kronq": json.dumps(manifest)},
        "0.B1": {"dtype": "F16", "shape": [1, side, 1], "data_offsets": [0, 2 * side]},
        "0.B2": {"dtype": "F16", "shape": [1, 1, side], "data_offsets": [2 * side, 4 * side]},
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(hostile.join(header, bytes(4 * side)))
    with hostile.bounded_cost():
        adapter = kronq.load(path)
        assert adapter["x"].shape == (side, side)


def test_a_whole_task_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(task())
    recipe = kronq.load(path).recipe
    assert recipe is not None
    assert recipe.task is not None
    assert recipe.task.interval == (0.0, 0.01)
