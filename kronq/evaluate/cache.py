"""Cache of candidates and scores, with which an interrupted search resumes.

Each key is a hash of everything that the value depends on, so an entry is never wrong, only unused.
A damaged entry is computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

import kronq
from kronq.errors import FormatError
from kronq.evaluate.score import ExampleScore, score_examples
from kronq.evaluate.task_model import TaskModel
from kronq.io.cache import digest, new_entry, read_entry, trim
from kronq.io.examples import Example
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter
from kronq.onnx.model_files import ModelFiles
from kronq.packed import pack_adapter, read_packed

T = TypeVar("T")

_CANDIDATE_CODE = ("model", "io", "trellis", "packed", "calibration", "quantization", "evaluate")
_SCORE_CODE = ("model", "io", "trellis", "packed", "onnx", "genai", "evaluate")
"""Packages of kronq whose code decides what a candidate is, and what its scores are."""
_MAX_CACHE_BYTES = 2**30
_SAMPLES = 64
_SAMPLE_BYTES = 2**18


def candidate_code() -> str:
    """Hashes the code that candidates depend on; another version may make others."""
    return _hash_code(_CANDIDATE_CODE)


def score_code() -> str:
    """Hashes the code that scores depend on, and ONNX Runtime's version."""
    import onnxruntime

    return digest(_hash_code(_SCORE_CODE), onnxruntime.__version__)


@cache
def _hash_code(packages: tuple[str, ...]) -> str:
    root = Path(kronq.__file__).parent
    files = sorted(
        file
        for package in packages
        for file in (root / package).rglob("*")
        if file.suffix in (".py", ".c", ".h")
    )
    return digest(kronq.__version__, *(file.read_bytes() for file in files))


def base_fingerprint(files: ModelFiles) -> str:
    """Hashes a base: small files whole, large weights by their size and 64 samples of 256 KiB."""
    parts: list[bytes | str] = []
    for file in sorted(files.folder.iterdir()):
        if not file.is_file():
            continue
        size = file.stat().st_size
        parts += [file.name, str(size)]
        with file.open("rb") as stream:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                parts.append(stream.read())
                continue
            for i in range(_SAMPLES):
                stream.seek(i * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                parts.append(digest(stream.read(_SAMPLE_BYTES)))
    return digest(*parts)


def factor_bytes(adapter: Adapter | None) -> bytes:
    """Returns an adapter's numbers as bytes, without its recipe; nothing for the bare base."""
    return b"" if adapter is None else pack_adapter(replace(adapter, recipe=None))


class TaskCache:
    """Folder of candidates and scores; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def adapter(self, key: str, make: Callable[[], Adapter]) -> Adapter:
        """Returns the adapter of this key; calls ``make`` and keeps its adapter if absent."""
        return self._get(f"{key}.safetensors", read_packed, make, pack_adapter)

    def scores(self, key: str, make: Callable[[], list[ExampleScore]]) -> list[ExampleScore]:
        """Returns the scores of this key; calls ``make`` and keeps its scores if absent."""
        return self._get(f"{key}.json", _read_scores, make, _write_scores)

    def _get(
        self,
        name: str,
        parse: Callable[[Path], T],
        make: Callable[[], T],
        serialize: Callable[[T], bytes],
    ) -> T:
        if self.folder is None:
            return make()
        file = self.folder / name
        value = read_entry(file, parse)
        if value is None:
            value = make()
            with new_entry(file) as work:
                work.write_bytes(serialize(value))
            trim(self.folder, limit=_MAX_CACHE_BYTES, keeping=file)
        return value


def _read_scores(file: Path) -> list[ExampleScore]:
    found, _, text = file.read_bytes().partition(b"\n")
    if found != digest(text).encode():
        raise FormatError("the checksum differs", path=file, code="checksum")
    return TypeAdapter(list[ExampleScore]).validate_json(text, strict=True)


def _write_scores(scores: list[ExampleScore]) -> bytes:
    text = json.dumps([asdict(score) for score in scores]).encode()
    return digest(text).encode() + b"\n" + text


class Scorer:
    """Scores adapters on one base, each only once.

    Args:
        model: The base.
        cache: Cache of scores; None keeps none.
        progress: Called with (texts done, texts in all) while one adapter is scored.
    """

    def __init__(
        self, model: TaskModel, cache: TaskCache | None = None, progress: Progress | None = None
    ) -> None:
        self.model = model
        self.cache = cache or TaskCache(None)
        self.progress = progress
        self._base = base_fingerprint(model.files) if self.cache.folder is not None else ""

    def __call__(
        self, adapter: Adapter | None, examples: Sequence[Example], *, choices: bool = False
    ) -> list[ExampleScore]:
        """Returns the scores of one adapter; of the base alone if None."""

        def compute() -> list[ExampleScore]:
            self.model.use(adapter)
            return score_examples(self.model, examples, choices=choices, progress=self.progress)

        if self.cache.folder is None:
            return compute()
        key = digest(
            "scores",
            score_code(),
            self.model.target.provider,
            self._base,
            factor_bytes(adapter),
            repr(examples),
            str(choices),
        )
        return self.cache.scores(key, compute)
