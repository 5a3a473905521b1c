"""Text fitted to a terminal: words stay whole, names keep their ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronq.fitting import cells, distinct_width, shorten, wrap

NAME = "base_model.model.model.layers.{0-29}.self_attn.k_proj ×30"


def test_lines_break_between_words_and_never_before_a_unit() -> None:
    line = "worst: model.layers.3.self_attn.q_proj 12.34 %, model.layers.4.mlp.up_proj 9.87 %, done"
    for width in range(40, 90):
        lines = wrap(line, width)
        assert all(cells(piece) <= width for piece in lines)
        assert " ".join(piece.strip() for piece in lines) == line
        assert not any(piece.strip().startswith("%") for piece in lines)


def test_a_pipe_breaks_nothing() -> None:
    assert wrap("word " * 100, None) == ["word " * 100]


def test_words_longer_than_the_terminal_stay_whole() -> None:
    path = "/".join(["folder"] * 20)
    assert wrap(f"wrote {path}, 12 bytes", 60) == ["wrote", f"  {path},", "  12 bytes"]


@pytest.mark.parametrize("width", range(12, 60))
def test_names_are_cut_in_the_middle(width: int) -> None:
    short = shorten(NAME, width)
    assert cells(short) <= width
    if width < cells(NAME):
        head, _, tail = short.partition("…")
        assert NAME.startswith(head)
        assert NAME.endswith(tail)
        assert len(tail) >= width // 3


def test_names_are_cut_between_dots_where_there_is_room() -> None:
    assert shorten(NAME, 32) == "base_model…self_attn.k_proj ×30"
    assert shorten("/model/layers.3/mlp/down_proj/MatMul", 24) == "…3/mlp/down_proj/MatMul"


@given(st.text(max_size=60), st.integers(3, 40))
def test_any_name_fits(name: str, width: int) -> None:
    if name.isascii():
        assert cells(shorten(name, width)) <= width


def test_names_that_differ_in_the_middle_stay_different() -> None:
    names = [f"text_model.encoder.layers.{i}.self_attn.q_proj" for i in range(12)]
    width = distinct_width(names, 20)
    assert width < cells(names[0])
    assert len({shorten(name, width) for name in names}) == len(names)


def test_wide_characters_take_two_columns() -> None:
    assert cells("模型") == 4
