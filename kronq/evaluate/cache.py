"""What was measured once, by what it was measured of: an interrupted search goes on where it was.

Every key is a hash of what a number depends on, so that nothing in the folder is ever wrong, only
unused; a damaged file is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import kronq
from kronq.errors import KronqError
from kronq.evaluate.score import Progress, Score, score
from kronq.evaluate.task_model import TaskModel
from kronq.io.examples import Example
from kronq.io.files import write_file
from kronq.model.adapter import Adapter
from kronq.onnx.model_files import ModelFiles
from kronq.packed import pack, read

_MAKERS = ("model", "trellis", "quantization", "packed", "calibration")
_SAMPLES = 64
_BLOCK = 2**18


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/kronq/tasks``, or under ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "kronq", "tasks")


def digest(*parts: bytes | str) -> str:
    """One hash of several things, told apart by their lengths."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:40]


@cache
def code() -> str:
    """Of the rooms that make candidates: another version of them may make others."""
    root = Path(kronq.__file__).parent
    files = sorted(file for room in _MAKERS for file in (root / room).rglob("*.py"))
    return digest(kronq.__version__, *(file.read_bytes() for file in files))


def fingerprint(files: ModelFiles) -> str:
    """A base's: its graph and tokenizer whole, its weights by size and 64 samples of 256 KiB."""
    parts: list[bytes | str] = []
    for file in sorted(files.folder.iterdir()):
        if not file.is_file():
            continue
        size = file.stat().st_size
        parts += [file.name, str(size)]
        with file.open("rb") as stream:
            if size <= _SAMPLES * _BLOCK:
                parts.append(stream.read())
                continue
            for i in range(_SAMPLES):
                stream.seek(i * (size - _BLOCK) // (_SAMPLES - 1))
                parts.append(hashlib.sha256(stream.read(_BLOCK)).digest())
    return digest(*parts)


class Cache:
    """A folder of candidates and scores; without one, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def adapter(self, key: str, make: Callable[[], Adapter]) -> Adapter:
        """The adapter of this key, or what ``make`` gives, which is kept as a packed file."""
        if self.folder is None:
            return make()
        file = self.folder / f"{key}.safetensors"
        if file.is_file():
            try:
                return read(file)
            except KronqError:
                file.unlink()
        made = make()
        write_file(file, pack(made), force=True)
        return made

    def scores(self, key: str, make: Callable[[], list[Score]]) -> list[Score]:
        """The scores of this key, or what ``make`` gives."""
        if self.folder is None:
            return make()
        file = self.folder / f"{key}.json"
        if file.is_file():
            try:
                rows = json.loads(file.read_text(encoding="utf-8"))
                return [Score(**{**row, "top": tuple(row["top"])}) for row in rows]
            except (ValueError, TypeError, KeyError):
                file.unlink()
        made = make()
        write_file(file, json.dumps([asdict(s) for s in made]).encode(), force=True)
        return made


class Scorer:
    """Scores adapters on one base, each only once.

    Args:
        model: The base.
        kept: Where scores are.
        progress: Called with (texts done, texts in all) while one adapter is scored.
    """

    def __init__(
        self, model: TaskModel, kept: Cache | None = None, progress: Progress | None = None
    ) -> None:
        self.model = model
        self.kept = kept or Cache(None)
        self.progress = progress
        self._base = fingerprint(model.files) if self.kept.folder is not None else ""

    def __call__(
        self, adapter: Adapter | None, examples: Sequence[Example], *, choices: bool = False
    ) -> list[Score]:
        """The scores of one adapter; None is the base without any."""

        def make() -> list[Score]:
            self.model.use(adapter)
            return score(self.model, examples, choices=choices, progress=self.progress)

        if self.kept.folder is None:
            return make()
        key = digest(
            "scores", kronq.__version__, self._base, content(adapter), repr(examples), str(choices)
        )
        return self.kept.scores(key, make)


def content(adapter: Adapter | None) -> bytes:
    """What tells one adapter's numbers from another's: not how they came about."""
    return b"" if adapter is None else pack(replace(adapter, recipe=None))
