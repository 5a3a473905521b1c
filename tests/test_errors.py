"""The family of errors: what else they are, and how they name parameters."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import kronq
from kronq import errors
from kronq.cli.messages import error_json, error_line
from kronq.error_codes import CODES
from kronq.errors import ArgumentError, KronqError, check_choice, check_type
from tests.paths import ROOT


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ArgumentError, ValueError),
        (errors.FormatError, ValueError),
        (errors.UnsupportedError, ValueError),
        (errors.MismatchError, ValueError),
        (errors.NotFoundError, FileNotFoundError),
        (errors.OutputExistsError, FileExistsError),
        (errors.DiskFullError, OSError),
        (errors.MissingDependencyError, ImportError),
    ],
)
def test_each_is_the_builtin_that_programs_catch(
    kind: type[KronqError], builtin: type[Exception]
) -> None:
    error = kind("wrong", path="a", found=1, expected=2, hint="{force} helps")
    assert isinstance(error, KronqError)
    assert isinstance(error, builtin)
    assert str(error) == "a: wrong; found 1; expected 2 (hint: force helps)"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - made here


def test_hints_name_parameters_for_python_and_for_the_shell() -> None:
    error = KronqError("wrong", hint="{form=branch}, {alpha=32}, {scale_rule} or {match_table}")
    assert str(error) == 'wrong (hint: form="branch", alpha=32, scale_rule or match_table)'
    assert error_line(error) == (
        "kronq: error: wrong (hint: --form branch, --alpha 32, --scale-rule or --dry-run)"
    )


def test_a_missing_adapter_is_a_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        kronq.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "arguments", [{"format": "zip"}, {"scale_rule": 1}, {"alpha": "32"}, {"alpha": True}]
)
def test_wrong_arguments_of_load(arguments: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        kronq.load(".", **arguments)  # type: ignore[arg-type]


def test_wrong_types_and_choices_say_what_is_right() -> None:
    with pytest.raises(ArgumentError, match="path has the wrong type; found int; expected str or"):
        kronq.load(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such form; found pizza; expected peft, lora"):
        check_choice("form", "pizza", ("peft", "lora"))
    check_type("bits", 4, int)


@pytest.mark.parametrize(
    "call",
    [
        lambda _: kronq.quantize("adapter"),  # type: ignore[arg-type]
        lambda _: kronq.save("adapter", "out.safetensors"),  # type: ignore[arg-type]
        lambda adapter: kronq.save(adapter, 3),  # type: ignore[arg-type]
        lambda adapter: kronq.measure(adapter, "quantized"),  # type: ignore[arg-type]
        lambda adapter: kronq.measure(adapter, adapter, second_moments=3),  # type: ignore[arg-type]
        lambda adapter: kronq.compare(adapter, bits=("four",)),  # type: ignore[arg-type]
        lambda adapter: kronq.convert(adapter, 3, to="peft"),  # type: ignore[arg-type]
        lambda adapter: kronq.export_onnx(adapter, 3, "out"),  # type: ignore[arg-type]
        lambda _: kronq.Session(3),  # type: ignore[arg-type]
        lambda _: kronq.gaussian_bound("adapter"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_wrong_types(call: Callable[[kronq.Adapter], object]) -> None:
    with pytest.raises(ArgumentError, match=r"has the wrong type; found \w+; expected"):
        call(kronq.Adapter({}))


FOREVER = [
    "error",
    "argument",
    "not-found",
    "format",
    "unsupported",
    "mismatch",
    "output-exists",
    "no-right",
    "disk-full",
    "missing-package",
    "truncated",
    "checksum",
    "not-json",
    "manifest",
    "version",
    "tensors",
    "dtype",
    "factors",
    "duplicate",
    "unknown-tensors",
    "scale",
    "not-finite",
    "limit",
    "pickle",
    "outside",
    "library",
    "layers-not-in-base",
    "shape",
    "other-base",
]
"""Codes that programs may rely on: none is ever taken out, or given another meaning."""


def test_codes_are_for_ever_and_on_their_page() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text("utf-8")
    assert list(CODES) == FOREVER
    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning} |" in page


def test_every_code_is_used_and_known() -> None:
    used = set()
    for file in (ROOT / "kronq").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            is_code = isinstance(node, ast.keyword) and node.arg == "code"
            if is_code and "error" not in ast.unparse(node.value) and "serve" not in file.parts:
                used |= {c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
    classes = {each.code for each in (KronqError, *KronqError.__subclasses__())}
    assert {each for each in used if isinstance(each, str)} | classes == set(CODES)


def test_a_code_travels() -> None:
    error = errors.FormatError("wrong", code="pickle")
    assert json.loads(error_json(error))["error"]["code"] == "pickle"
    assert pickle.loads(pickle.dumps(error)).code == "pickle"  # noqa: S301 - made here
    assert errors.FormatError("wrong").code == "format"
