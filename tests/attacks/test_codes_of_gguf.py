"""Codes of refusals of GGUF files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from kronq.base.gguf_sizes import check_gguf
from kronq.writers.gguf_base import read_base
from tests.attacks.gguf_files import Atom, join, split, write_good
from tests.attacks.hostile import bounded_cost
from tests.attacks.refusals import assert_code

Entries = list[list[Atom]]
COUNTS, TENSORS = 0, -6
"""Places of the head and of the first of the tensors."""


def atom(entry: int, place: int, value: int | bytes) -> Callable[[Entries], object]:
    """Puts a value to a place of an entry, counted from its end for a tensor."""

    def change(entries: Entries) -> None:
        entries[entry][place] = (entries[entry][place][0], value)

    return change


def repeated(index: int, place: int) -> Callable[[Entries], object]:
    def change(entries: Entries) -> None:
        entries.insert(index, entries[index])
        atom(COUNTS, place, int(entries[COUNTS][place][1]) + 1)(entries)

    return change


def array(kind: int, count: int) -> Callable[[Entries], object]:
    """Adds a list that says it has so many values, and has none."""

    def change(entries: Entries) -> None:
        entries.insert(1, [("Q", 1), ("s", b"x"), ("I", 9), ("I", kind), ("Q", count)])
        atom(COUNTS, 3, int(entries[COUNTS][3][1]) + 1)(entries)

    return change


CASES: dict[str, tuple[str, Callable[[Entries], object]]] = {
    "a later version": ("version", atom(COUNTS, 1, 99)),
    "too many tensors": ("limit", atom(COUNTS, 2, 2**40)),
    "more tensors than there are": ("truncated", atom(COUNTS, 2, 60)),
    "too many settings": ("limit", atom(COUNTS, 3, 2**40)),
    "more settings than there are": ("truncated", atom(COUNTS, 3, 60)),
    "a name longer than the file": ("truncated", atom(1, 0, 2**62)),
    "a setting twice": ("duplicate", repeated(2, 3)),
    "a tensor twice": ("duplicate", repeated(TENSORS, 2)),
    "a list of 2^40 bytes": ("truncated", array(0, 2**40)),
    "a list of 2^63 floats": ("truncated", array(6, 2**63)),
    "a list of 2^40 texts": ("limit", array(8, 2**40)),
    "a list of a million texts": ("truncated", array(8, 10**6)),
    "a list of lists": ("truncated", array(9, 1)),
    "a setting of no type": ("truncated", atom(2, 2, 77)),
    "a tensor of a type that nobody has": ("unsupported", atom(TENSORS, -2, 999)),
    "a tensor of a type that is not read": ("unsupported", atom(TENSORS, -2, 26)),
    "a tensor beyond the end": ("truncated", atom(TENSORS, -1, 2**40)),
    "an offset that wraps": ("truncated", atom(TENSORS, -1, 2**64 - 32)),
    "a tensor over another": ("tensors", atom(-1, -1, 0)),
    "a tensor between two places": ("tensors", atom(TENSORS, -1, 1)),
    "a size of zero": ("tensors", atom(TENSORS, -3, 0)),
    "sizes that overflow": ("truncated", atom(TENSORS, -3, 2**63)),
    "too many sizes": ("tensors", lambda entries: entries[TENSORS].__setitem__(
        slice(2, -2), [("I", 9), *[("Q", 1)] * 9]
    )),
    "rows of half a block": ("tensors", atom(TENSORS + 1, -4, 33)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "read", [check_gguf, lambda path: read_base(str(path))], ids=["base", "to"]
)
def test_a_gguf_file(case: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    write_good(tmp_path)
    path = tmp_path / "x.gguf"
    read(path)
    code, change = CASES[case]
    entries, payload = split(path.read_bytes())
    change(entries)
    path.write_bytes(join(entries, payload))
    with bounded_cost():
        assert_code(code, lambda: read(path), path)


def test_a_file_that_is_cut_anywhere(tmp_path: Path) -> None:
    write_good(tmp_path)
    path = tmp_path / "x.gguf"
    data = path.read_bytes()
    for size in {*range(4, 24), *range(24, len(data), 997)}:
        path.write_bytes(data[:size])
        assert_code("truncated", lambda: check_gguf(path), path)


def test_the_other_byte_order(tmp_path: Path) -> None:
    """Its version tells of it by the two bytes that are not zero."""
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_uint32("llama.block_count", 0)
    writer.add_token_list(["one", "two"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert (tmp_path / "x.gguf").read_bytes()[4:8] == struct.pack(">I", 3)
    check_gguf(tmp_path / "x.gguf")
