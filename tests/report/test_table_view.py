"""Tables as text: whole where there is room, readable where there is little."""

from __future__ import annotations

import re

import pytest

from kronq.fitting import cells
from kronq.report.display.table_view import TableView

ROWS = [
    [f"base_model.model.layers.{i}.self_attn.k_proj ×30", "1536×576", "2/3/4", f"{i * 111_111:,}",
     "73.3 (66.7 to 80.0)"]
    for i in range(1, 9)
]  # fmt: skip
VIEW = TableView(
    ["layers", "ΔW", "bits", "bytes", "accuracy %"],
    ROWS,
    before=["a line above the table, of some length, which is wrapped between its words"],
    droppable=["ΔW", "bits"],
)
FIGURE = re.compile(r"\d[\d,.×/]*")


def figures(text: str) -> set[str]:
    return set(FIGURE.findall(text))


def test_without_a_width_nothing_is_cut_wrapped_or_left_out() -> None:
    lines = VIEW.text().splitlines()
    assert len(lines) == 2 + len(ROWS)
    for row, line in zip(ROWS, lines[2:], strict=True):
        assert [cell.strip() for cell in re.split(r"  +", line)] == row


@pytest.mark.parametrize("width", [30, 40, 50, 60, 72, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(width: int) -> None:
    text = VIEW.text(width)
    assert max(map(cells, text.splitlines())) <= width
    for row in ROWS:
        assert {row[3], *figures(row[4])} <= figures(text)


def test_columns_that_are_left_out_are_named() -> None:
    text = VIEW.text(60)
    assert "1536×576" not in text
    assert "not shown: ΔW" in text
    assert "not shown" not in VIEW.text(120)


def test_names_give_way_before_figures_do() -> None:
    line = VIEW.text(85).splitlines()[-1]
    assert line.startswith("base_model…")
    assert line.split()[-5:] == ["888,888", *["73.3", "(66.7", "to", "80.0)"]]


def test_intervals_go_below_their_figures_before_columns_go() -> None:
    view = TableView(["", *"abcd"], [["name", *["+0.15 % (-0.10 to +0.40)"] * 4]])
    lines = view.text(80).splitlines()
    assert lines[1].split() == ["name", *["+0.15", "%"] * 4]
    assert lines[2].split("  ")[-1].strip() == "(-0.10 to +0.40)"


def test_a_table_too_wide_for_any_terminal_becomes_lists() -> None:
    lines = VIEW.text(30).splitlines()
    assert "bytes       111,111" in lines
    assert max(map(cells, lines)) <= 30


def test_cells_may_hold_control_characters_and_wide_ones() -> None:
    view = TableView(["layer", "bytes"], [["模型.\x1b[31m.q", "12"], ["b", "3"]])
    lines = view.text().splitlines()
    assert "\\x1b[31m" in lines[1]
    assert len({cells(line) for line in lines}) == 1


def test_a_table_without_rows_has_its_titles() -> None:
    assert TableView(["layer", "bytes"], []).text() == "layer  bytes"
