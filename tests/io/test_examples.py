"""Files of examples as trainers and editors write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kronq.errors import FormatError
from kronq.io.examples import Example, read_examples

ROWS = [
    {"question": "Why?", "choices": ["so", "not so"], "answer": 1},
    {"prompt": "1 + 1 =", "answer": "2"},
    {"prompt": "Say it: ", "completion": "it"},
    {"instruction": "Add.", "input": "1, 1", "output": "2"},
    {"instruction": "Sing.", "input": "", "output": "La"},
    {"text": "plain"},
]


def lines(rows: list[dict[str, Any]], end: str = "\n") -> str:
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end


def test_each_kind_of_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(lines(ROWS))
    why, plus, say, add, sing, plain = read_examples(file)
    assert why == Example("Question: Why?\nAnswer:", (" so", " not so"), 1)
    assert (plus.text, say.text, plain.text) == ("1 + 1 = 2", "Say it: it", "plain")
    assert add.prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n1, 1\n\n### Response:\n")
    assert sing.prompt.endswith("### Instruction:\nSing.\n\n### Response:\n")
    assert (add.choices, sing.choices) == (("2",), ("La",))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("mark.jsonl", b"\xef\xbb\xbf" + lines(ROWS).encode()),
        ("windows.jsonl", lines(ROWS, "\r\n").encode()),
        ("blank.jsonl", lines(ROWS, "\n\n").encode()),
        ("list.json", json.dumps(ROWS).encode()),
        ("indented.json", json.dumps(ROWS, indent=2).encode()),
        ("list.jsonl", json.dumps(ROWS).encode()),
        ("lines.json", lines(ROWS).encode()),
        ("LINES.JSONL", lines(ROWS).encode()),
    ],
)
def test_files_of_other_programs(tmp_path: Path, name: str, data: bytes) -> None:
    plain, other = tmp_path / "plain.jsonl", tmp_path / name
    plain.write_bytes(lines(ROWS).encode())
    other.write_bytes(data)
    assert read_examples(other) == read_examples(plain)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\u000b", "\u000c", "\u001c"])
def test_ends_of_lines_of_unicode_inside_a_string(tmp_path: Path, character: str) -> None:
    file = tmp_path / "a.jsonl"
    text = f"one{character}two"
    file.write_text(json.dumps({"text": text}, ensure_ascii=character < "\x20") + "\n", "utf-8")
    assert [example.text for example in read_examples(file)] == [text]


def test_plain_text_with_a_mark_and_windows_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n")
    assert [example.text for example in read_examples(file)] == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "q", "answer": 0}', "line 1 is no example; found 'question' without 'ch"),
        ('{"prompt": "q"}', "found 'prompt' without 'answer'"),
        ('{"instruction": "q"}', "found 'instruction' without 'output'"),
        ('{"output": "q"}', "found the fields output; expected"),
        ('{"text": ["a"]}', "found 'text' is no text: ['a']"),
        ('{"text": "\\ud800"}', "found 'text' has half of a surrogate pair: "),
        ('{"question": "q", "choices": "ab", "answer": 0}', "'choices' is no list of texts: 'ab'"),
        ('{"question": "q", "choices": ["a"], "answer": 1}', "'answer' is 1, no index of 1 choi"),
        ('"text"', "found str 'text'"),
        ('{"text": "a"}\n3', "line 2 is no example; found int 3"),
        (
            '[{"text": "a"}, {"prompt": 3, "answer": "a"}]',
            "item 2 is no example; found 'prompt' is",
        ),
        ("[1", "not JSON"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "line 1 is a chat, whose text"),
        ("[]", "the text is empty"),
    ],
)
def test_what_is_no_example(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(text)
    with pytest.raises(FormatError) as error:
        read_examples(file)
    assert message in str(error.value)
    assert len(str(error.value).replace(str(tmp_path), "")) < 400
