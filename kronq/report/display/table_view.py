"""Table with lines of text around it, rendered as text, as HTML or for a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kronq.errors import printable
from kronq.report.markup import tag

if TYPE_CHECKING:
    from rich.table import Table

_TEXT_COLUMNS = {
    "", "layers", "adapter", "family", "method", "stored as", "others in no more bytes"
}  # fmt: skip
"""Columns that are aligned left."""
_WIDTH = 100_000
"""Characters that no table needs, so that no number is ever cut."""


@dataclass(frozen=True)
class TableView:
    """Table of strings, with lines of text before and after it.

    Attributes:
        columns: Column titles.
        rows: Cells.
        before: Lines above the table.
        after: Lines below the table.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    before: Sequence[str] = ()
    after: Sequence[str] = ()

    def renderables(self) -> list[str | Table]:
        """Returns what rich prints to a terminal."""
        return [*self.before, self._rich_table(), *self.after]

    def text(self) -> str:
        """Returns the table as plain text."""
        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, width=_WIDTH, color_system=None).print(self._rich_table())
        table = (line.rstrip() for line in stream.getvalue().splitlines())
        return "\n".join([*map(printable, self.before), *table, *map(printable, self.after)])

    def html(self) -> str:
        """Returns the table as an HTML fragment, for notebooks."""
        styles = [f"text-align: {self._alignment(column)}" for column in self.columns]

        def cells(name: str, texts: Sequence[str]) -> list[str]:
            return [tag(name, t, style=s) for t, s in zip(texts, styles, strict=True)]

        head = tag("thead", tag("tr", cells("th", self.columns)))
        body = tag("tbody", [tag("tr", cells("td", row)) for row in self.rows])
        before, after = ([tag("p", line) for line in lines] for lines in (self.before, self.after))
        return tag("div", before, tag("table", head, body), after)

    def _alignment(self, column: str) -> str:
        return "left" if column in _TEXT_COLUMNS else "right"

    def _rich_table(self) -> Table:
        from kronq.report.display.plain_table import PlainTable

        table = PlainTable()
        table.header_style = "bold"
        for column in self.columns:
            left = self._alignment(column) == "left"
            table.add_column(column, justify="left" if left else "right", no_wrap=True)
        for row in self.rows:
            table.add_cells(*row)
        return table
