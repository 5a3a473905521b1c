"""Example texts: plain text, or prompts with answers as one JSON object per line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, NotFoundError, StrPath


@dataclass(frozen=True)
class Example:
    """One prompt with its possible answers, or one plain text.

    Attributes:
        prompt: Text before the answer; empty for plain text.
        choices: Possible answers, each with its leading space; a single one if the prompt has only
            its right answer, or for plain text.
        answer: Index of the right answer.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int = 0

    @property
    def text(self) -> str:
        """The prompt, followed by the right answer."""
        return self.prompt + self.choices[self.answer]


def read_examples(path: StrPath) -> list[Example]:
    """Reads a ``.jsonl`` file of examples, or any other file as plain text, a paragraph each.

    A line of JSON is ``{"question", "choices", "answer": index}`` (the prompt is ``Question: …``
    ``Answer:``, as usual for ARC), ``{"prompt", "answer": text}`` or ``{"text"}``.

    Raises:
        NotFoundError: There is no such file.
        FormatError: The file is empty, or a line is none of these.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError("no such file", path=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(
            "cannot read the text", path=path, found=str(error), expected="a UTF-8 text file"
        ) from None
    if file.suffix == ".jsonl":
        examples = [
            _parse_line(line, file, number)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    else:
        examples = [Example("", (part.strip(),)) for part in text.split("\n\n") if part.strip()]
    if not examples:
        raise FormatError("the text is empty", path=path)
    return examples


def resolve_examples(
    data: StrPath | Sequence[Example],
) -> tuple[list[Example], str | None]:
    """Returns examples, read where ``data`` is a path, and the file's name (None without one)."""
    if isinstance(data, str | os.PathLike):
        return read_examples(data), Path(data).name
    return list(data), None


def _parse_line(line: str, path: Path, number: int) -> Example:
    try:
        row: Any = json.loads(line)
        if "text" in row:
            return Example("", (_check_text(row["text"]),))
        if "question" in row:
            choices = tuple(f" {_check_text(choice)}" for choice in row["choices"])
            index = row["answer"]
            if type(index) is not int or not 0 <= index < len(choices):
                raise ValueError(f"answer {index!r} is no index of {len(choices)} choices")
            return Example(f"Question: {_check_text(row['question'])}\nAnswer:", choices, index)
        return Example(_check_text(row["prompt"]), (f" {_check_text(row['answer'])}",))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(
            f"line {number} is no example",
            path=path,
            found=f"{type(error).__name__}: {error}",
            expected='{"question", "choices", "answer"}, {"prompt", "answer"} or {"text"}',
        ) from None


def _check_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value
