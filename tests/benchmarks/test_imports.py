"""Every benchmark can be imported: names that it uses are still there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import kronq
from tests.paths import ROOT

BENCHMARKS = sorted((ROOT / "benchmarks").glob("[!_]*.py"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_a_benchmark_imports_and_names_what_there_is(file: Path) -> None:
    importlib.import_module(f"benchmarks.{file.stem}")
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "kronq":
            assert hasattr(kronq, node.attr)
