"""The command line as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kronq as package
from kronq.cli import VERBS
from tests.cli.command import Kronq

HEAVY = {
    "torch", "transformers", "peft", "onnxruntime", "onnxruntime_genai", "onnx", "onnx_ir", "numpy",
    "ml_dtypes", "safetensors", "constriction", "pydantic", "rich", "matplotlib", "huggingface_hub",
}  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "code",
    [
        "import kronq",
        "import kronq.cli; kronq.cli.main(['--help'])",
        "import kronq.cli; kronq.cli.main(['--version'])",
    ],
)
def test_starting_brings_in_nothing_heavy(code: str) -> None:
    """So that help, completion and mistakes are answered at once."""
    found = python(
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded', *sys.modules, file=sys.stderr))\n" + code
    )
    assert found.returncode == 0
    loaded = found.stderr.split("loaded ")[1].split()
    assert not HEAVY & set(loaded)


NOWHERE = {
    "quantize": ["nowhere", "-o", "a.safetensors"],
    "compare": ["nowhere"],
    "convert": ["nowhere", "--to", "peft", "-o", "out"],
    "export": ["nowhere", "--base", "nowhere", "-o", "out"],
    "run": ["nowhere", "--prompt", "a"],
    "score": ["nowhere", "--base", "nowhere", "--tasks", "nowhere"],
    "base": ["nowhere", "-o", "out"],
    "basis": ["nowhere", "-o", "out.safetensors"],
    "pool": ["ls", "nowhere"],
    "train": ["nowhere", "nowhere", "-o", "out"],
    "study": ["nowhere", "-o", "out"],
}
"""Arguments of verbs that need more than one; no path is there."""


@pytest.mark.parametrize("verb", VERBS)
def test_help_and_mistakes_are_answered_before_anything_heavy_is_imported(verb: str) -> None:
    """Which takes a second: a verb imports what does its work when its options are right."""
    given = (["--help"], ["--help-all"], ["--bitz", "3"], NOWHERE.get(verb, ["nowhere"]))
    found = python(
        "import sys\n"
        "from kronq.cli import main\n"
        f"for args in {given!r}:\n"
        "    try:\n"
        f"        main([{verb!r}, *args])\n"
        "    except SystemExit as stop:\n"
        f"        print('ended', stop.code, *{HEAVY!r} & set(sys.modules))\n"
    )
    ends = [line for line in found.stdout.splitlines() if line.startswith("ended")]
    assert ends == ["ended 0", "ended 0", "ended 2", "ended 2"], found.stderr
    option, path = found.stderr.splitlines()
    assert "No such option" in option
    assert "nowhere: no such file or folder" in path


@pytest.mark.parametrize("verb", ["quantize", "inspect", "compare"])
def test_no_verb_of_these_needs_torch(verb: str) -> None:
    """`pip install kronq` without extras is enough for them."""
    code = f"import sys, kronq.cli.{verb}; print(*sys.modules)"
    assert not {"torch", "transformers", "peft", "matplotlib"} & set(python(code).stdout.split())


def test_every_public_name_is_there() -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_help_lists_every_verb(kronq: Kronq) -> None:
    for flag in ("--help", "-h"):
        result = kronq(flag)
        assert result.code == 0
        assert all(f"  {verb} " in result.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(kronq: Kronq, verb: str) -> None:
    result = kronq(verb, "--help")
    assert result.code == 0
    assert f"kronq {verb} " in result.out.split("Examples:")[1]


def test_the_version(kronq: Kronq) -> None:
    assert kronq("--version").out == f"kronq, version {package.__version__}\n"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--nothing"], "No such option"),
        (["nothing"], "no such verb 'nothing'"),
        (["quantize"], "Missing argument 'ADAPTER'"),
        (["quantize", "x", "--nothing"], "No such option"),
        (
            ["quantize", "x", "-o", "y", "--bits", "many"],
            "'--bits': 'many' is not a valid integer",
        ),
        (["quantize", "x", "-o", "y", "--method", "magic"], "'magic' is not one of"),
        (["quantize", "x", "-o", "y", "--group-size", "many"], "is not a valid integer"),
        (["inspect"], "Missing argument 'PATH'"),
        (["inspect", "x", "--format", "zip"], "'zip' is not one of"),
        (["inspect", "x", "--alpha", "big"], "is not a valid float"),
        (["compare"], "Missing argument 'ADAPTERS...'"),
    ],
    ids=str,
)
def test_a_mistake_is_told_with_exit_code_2(kronq: Kronq, args: list[str], told: str) -> None:
    result = kronq(*args)
    assert (result.code, result.out) == (2, "")
    assert told in result.err


def test_a_real_process(tmp_path: Path) -> None:
    """``python -m kronq``: its exit code and its one line."""
    found = subprocess.run(
        [sys.executable, "-m", "kronq", "inspect", tmp_path / "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"kronq: error: {tmp_path}/nothing: no such file or folder\n"


def test_a_reader_that_goes_away(trained: Path) -> None:
    """``kronq … | head -1`` ends without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kronq", "inspect", trained, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0
    process.stderr.close()


def test_help_is_quick() -> None:
    start = time.perf_counter()
    python("import kronq.cli; kronq.cli.main(['--help'])")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["quantise", "x"],
            "did you mean 'kronq quantize'? (hint: kronq --help)",
        ),
        (["quantize", "x", "--dry-run", "--bits", "-5"], "bits: no such width; found -5"),
        (["quantize", "x", "--bit", 5], "(hint: kronq quantize --help)"),
        (["convert", "x", "-o", "y"], "Missing option '--to'. Choose from: peft, lora"),
    ],
)
def test_a_wrong_use_is_one_line(kronq: Kronq, arguments: list[object], told: str) -> None:
    assert told in kronq.refuses(*arguments)


def test_without_unicode(trained: Path) -> None:
    """Windows pipes and the C locale: what they cannot write is escaped, not a traceback."""
    found = subprocess.run(
        [sys.executable, "-m", "kronq", "inspect", str(trained)],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, b"")
    assert rb"\u0394W" in found.stdout
