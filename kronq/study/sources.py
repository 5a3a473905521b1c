"""Files that a study reads: its base in both forms, and the examples of its tasks."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kronq.errors import FormatError, StrPath
from kronq.io.cache import digest, digest_files
from kronq.io.examples import Example, read_examples
from kronq.io.gguf_file import is_gguf
from kronq.io.input_path import find_input
from kronq.study.config import Study, Task, Text

Say = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """The base of a study.

    Attributes:
        hf: Its Hugging Face folder, that adapters are trained on.
        onnx: Its folder of ``kronq base``, that they are scored on.
        digest: Of the files of ``hf``.
    """

    hf: Path
    onnx: Path
    digest: str


@dataclass(frozen=True)
class TaskExamples:
    """Examples of one task, with a digest of their texts.

    Attributes:
        learned: What is trained on.
        scored: What is scored.
        choices: Whether all choices can be.
    """

    learned: tuple[Example, ...]
    scored: tuple[Example, ...]
    choices: bool

    @property
    def learned_digest(self) -> str:
        return digest_examples(self.learned)

    @property
    def scored_digest(self) -> str:
        return digest_examples(self.scored)


@dataclass(frozen=True)
class TextSource:
    """Text of no task.

    Attributes:
        text: The text.
        tokens: How many are read.
    """

    text: str
    tokens: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_text(text: Text, folder: Path) -> TextSource:
    """Reads a text.

    Raises:
        KronqError: There is no such file, or it is no UTF-8.
    """
    path = find_input(folder / text.file)
    try:
        return TextSource(path.read_text("utf-8-sig"), text.tokens)
    except (OSError, ValueError) as error:
        raise FormatError("no text", path=path, found=str(error), expected="UTF-8") from None


def digest_examples(examples: Sequence[Example]) -> str:
    """Returns a digest of the texts of examples."""
    texts = json.dumps([[e.prompt, *e.choices, e.answer] for e in examples])
    return hashlib.sha256(texts.encode()).hexdigest()


def read_task(task: Task, folder: Path) -> TaskExamples:
    """Reads a task's examples, split and limited as it says: the same each time.

    Raises:
        KronqError: A file is missing, or has no examples.
    """
    learned = read_examples(folder / task.train)
    if task.test is not None:
        scored = read_examples(folder / task.test)
    elif task.test_share:
        order = [*range(len(learned))]
        random.Random(f"split {task.split_seed}").shuffle(order)  # noqa: S311 - to be repeated
        kept = {*order[: round(task.test_share * len(learned))]}
        scored = [e for i, e in enumerate(learned) if i in kept]
        learned = [e for i, e in enumerate(learned) if i not in kept]
    else:
        scored = learned
    if task.questions is not None and task.questions < len(scored):
        rng = random.Random(f"questions {task.split_seed}")  # noqa: S311 - to be repeated
        scored = [scored[i] for i in sorted(rng.sample(range(len(scored)), task.questions))]
    several = all(len(example.choices) > 1 for example in scored)
    return TaskExamples(tuple(learned), tuple(scored), task.choices and several)


def find_base(study: Study, folder: Path, out: Path) -> Base:
    """Returns the base and where its ONNX model is, or will be.

    Args:
        study: The study.
        folder: What its paths are relative to.
        out: The study's folder, in which what is missing is built.

    Raises:
        KronqError: The base does not exist.
    """
    given = find_input(folder / study.base, "base")
    if is_gguf(given):
        key = digest(digest_files([given]))
        hf = out / "base" / f"{key}-hf"
    else:
        files = sorted(f for f in given.iterdir() if f.is_file()) if given.is_dir() else []
        weights = [f for f in files if f.suffix in (".safetensors", ".bin", ".json", ".model")]
        key, hf = digest(digest_files(weights)), given
    onnx = out / "base" / f"{key}-onnx" if study.onnx is None else folder / study.onnx
    return Base(hf, onnx if study.onnx is None else find_input(onnx, "base"), key)


def build_base(study: Study, base: Base, folder: Path, say: Say) -> None:
    """Builds the forms of the base that do not exist yet."""
    base.onnx.parent.mkdir(parents=True, exist_ok=True)
    if not base.hf.exists():
        from kronq.base.gguf import gguf_to_hf

        say("reading the GGUF file")
        gguf_to_hf(folder / study.base, base.hf)
    if not base.onnx.exists():
        from kronq.base.build import build_base as build

        build(base.hf, base.onnx, progress=say)


def folder_for(config: StrPath, data: StrPath | None) -> Path:
    """Returns what a study's paths are relative to: ``data``, or the folder of its file."""
    return Path(config).absolute().parent if data is None else Path(data).absolute()
