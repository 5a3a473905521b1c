"""The user's own text: plain, or questions with answers, one JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, NotFoundError, StrPath


@dataclass(frozen=True)
class Example:
    """One text that a model reads, and what of it is an answer.

    Attributes:
        prompt: What comes before the answer; empty for plain text.
        choices: Possible continuations, each with its leading space; one for plain text or a
            single right answer.
        answer: The right one's index.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int = 0

    @property
    def text(self) -> str:
        """The prompt with the right answer behind it."""
        return self.prompt + self.choices[self.answer]


def read_examples(path: StrPath) -> list[Example]:
    """Reads a ``.jsonl`` file of examples, or any other file as plain text, a paragraph each.

    A line of JSON is ``{"question", "choices", "answer": index}`` (asked as ``Question: …``
    ``Answer:``, as ARC and its relatives are), ``{"prompt", "answer": text}`` or ``{"text"}``.

    Raises:
        FormatError: No such file, nothing in it, or a line that is none of these.
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
        found = [
            _example(line, file, number)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    else:
        found = [Example("", (part.strip(),)) for part in text.split("\n\n") if part.strip()]
    if not found:
        raise FormatError("the text is empty", path=path)
    return found


def _example(line: str, path: Path, number: int) -> Example:
    try:
        row: Any = json.loads(line)
        if "text" in row:
            return Example("", (_text(row["text"]),))
        if "question" in row:
            choices = tuple(f" {_text(choice)}" for choice in row["choices"])
            index = row["answer"]
            if type(index) is not int or not 0 <= index < len(choices):
                raise ValueError(f"answer {index!r} is no index of {len(choices)} choices")
            return Example(f"Question: {_text(row['question'])}\nAnswer:", choices, index)
        return Example(_text(row["prompt"]), (f" {_text(row['answer'])}",))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(
            f"line {number} is no example",
            path=path,
            found=f"{type(error).__name__}: {error}",
            expected='{"question", "choices", "answer"}, {"prompt", "answer"} or {"text"}',
        ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value
