"""Example texts: plain text, or prompts with answers as JSON: an object per line, or a list."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, NotFoundError, StrPath
from kronq.io.json_file import refuse_repeated_names

_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
_KINDS = (
    ("text",),
    ("question", "choices", "answer"),
    ("instruction", "output"),
    ("prompt", "answer"),
    ("messages",),
)
"""Fields of a row, by kind; the first of each tells which kind it is."""
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
"""Prompts of github.com/tatsu-lab/stanford_alpaca, which trainers use for such rows."""


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
    """Reads examples from JSON, or any other file as plain text, a paragraph each.

    A ``.jsonl`` or ``.json`` file has an object per line, or is one list of objects. An object is
    ``{"question", "choices", "answer": index}`` (the prompt is ``Question: …`` ``Answer:``, as
    usual for ARC), ``{"prompt", "answer": text}``, ``{"prompt", "completion"}`` (nothing is put
    between the two), ``{"instruction", "output"}`` with an ``"input"`` or without (Alpaca's
    prompts), or ``{"text"}``.

    Raises:
        NotFoundError: There is no such file.
        FormatError: The file is empty, or an object is none of these.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")  # editors of Windows begin with a mark
    except FileNotFoundError:
        raise NotFoundError("no such file", path=path) from None
    except (OSError, ValueError) as error:  # of the bytes, or of a path with a null
        raise FormatError(
            "cannot read the text", path=path, found=str(error), expected="a UTF-8 text file"
        ) from None
    if file.suffix.lower() in _JSON_SUFFIXES:
        examples = [_parse_row(row, file, place) for place, row in _rows(text, file)]
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


def _rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yields each row of JSON with its place: the items of a list, or line by line."""
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text, object_pairs_hook=refuse_repeated_names)
        except (ValueError, RecursionError) as error:
            raise FormatError("not JSON", path=path, found=str(error), code="not-json") from None
        yield from ((f"item {number}", row) for number, row in enumerate(rows, 1))
        return
    # Not splitlines: a string of JSON may hold U+2028 and other ends of lines of Unicode.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=refuse_repeated_names)
            except (ValueError, RecursionError) as error:
                raise _row_error(path, f"line {number}", str(error), "not-json") from None
            yield f"line {number}", row


def _parse_row(row: Any, path: Path, place: str) -> Example:
    if not isinstance(row, dict):
        raise _row_error(path, place, f"{type(row).__name__} {row!r:.40}")
    kind = next((kind for kind in _KINDS if kind[0] in row), None)
    if kind is None:
        raise _row_error(path, place, f"the fields {', '.join(map(str, row))}"[:80])
    if "messages" in kind:
        raise FormatError(
            f"{place} is a chat, whose text depends on the model's template",
            path=path,
            found="messages",
            expected='{"prompt", "completion"} or {"text"}',
            hint="tokenizer.apply_chat_template(messages, tokenize=False) of the base gives it",
        )
    field = next((f for f in kind if f not in row), None)
    if field == "answer" and "completion" in row:
        field = None
    if field is not None:
        raise _row_error(path, place, f"{kind[0]!r} without {field!r}")
    try:
        return _example(row)
    except ValueError as error:
        raise _row_error(path, place, str(error)) from None


def _example(row: Mapping[str, Any]) -> Example:
    """Returns the example of a row that has all fields of its kind.

    Raises:
        ValueError: A value has another type, or is empty.
    """
    if "text" in row:
        return Example("", (_check_text(row, "text"),))
    if "question" in row:
        choices = row["choices"]
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"'choices' is no list of texts: {choices!r:.60}")
        texts = tuple(f" {_check_text({'choices': choice}, 'choices')}" for choice in choices)
        index = row["answer"]
        if type(index) is not int or not 0 <= index < len(texts):
            raise ValueError(f"'answer' is {index!r:.40}, no index of {len(texts)} choices")
        return Example(f"Question: {_check_text(row, 'question')}\nAnswer:", texts, index)
    if "instruction" in row:
        given = row.get("input") or ""
        if not isinstance(given, str):
            raise ValueError(f"'input' is no text: {given!r:.60}")
        parts = {"instruction": _check_text(row, "instruction"), "input": given}
        prompt = (_ALPACA_INPUT if given.strip() else _ALPACA).format(**parts)
        return Example(prompt, (_check_text(row, "output"),))
    prompt = _check_text(row, "prompt")
    if "answer" in row:
        return Example(prompt, (f" {_check_text(row, 'answer')}",))
    return Example(prompt, (_check_text(row, "completion"),))


def _row_error(path: Path, place: str, found: str, code: str | None = None) -> FormatError:
    return FormatError(
        f"{place} is no example",
        path=path,
        found=found,
        expected='{"question", "choices", "answer"}, {"prompt", "answer"}, '
        '{"prompt", "completion"}, {"instruction", "output"} or {"text"}',
        code=code,
    )


def _check_text(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field!r} is no text: {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{field!r} has half of a surrogate pair: {value!a:.60}") from None
    return value
