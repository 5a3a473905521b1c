"""Table with lines of text around it, rendered as text of any width or as HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kronq.errors import printable
from kronq.fitting import wrap
from kronq.report.display.table_text import Column, Kind, render
from kronq.report.markup import tag

_KINDS: dict[str, Kind] = {
    "": "name",
    "adapter": "name",
    "layer": "name",
    "layers": "name",
    "node": "name",
    "weight": "name",
    "family": "words",
    "item": "words",
    "method": "words",
    "stored as": "words",
    "others in no more bytes": "words",
    "value": "words",
}
"""Title → kind of a column that does not hold figures."""


@dataclass(frozen=True)
class TableView:
    """Table of strings, with lines of text before and after it.

    Attributes:
        columns: Column titles.
        rows: Cells.
        before: Lines above the table.
        after: Lines below the table.
        droppable: Titles of columns that a narrow terminal leaves out, in this order.
        titles: Whether titles are shown.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    droppable: Sequence[str] = ()
    titles: bool = True

    def text(self, width: int | None = None, emphasize: Callable[[str], str] = str) -> str:
        """Returns the table as plain text.

        Args:
            width: Columns of the terminal; None for no limit.
            emphasize: Styles a line of titles.
        """
        cells = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.columns)
        columns = [
            Column(title, _KINDS.get(title, "figure"), [*map(printable, texts)])
            for title, texts in zip(self.columns, cells, strict=True)
        ]
        table = render(columns, width, self.droppable, emphasize if self.titles else None)
        before, after = (
            [piece for line in lines for piece in wrap(printable(line), width)]
            for lines in (self.before, self.after)
        )
        return "\n".join([*before, *table, *after])

    def html(self) -> str:
        """Returns the table as an HTML fragment, for notebooks."""
        styles = [
            f"text-align: {'left' if column in _KINDS else 'right'}" for column in self.columns
        ]

        def cells(name: str, texts: Sequence[str]) -> list[str]:
            return [tag(name, t, style=s) for t, s in zip(texts, styles, strict=True)]

        head = tag("thead", tag("tr", cells("th", self.columns)))
        body = tag("tbody", [tag("tr", cells("td", row)) for row in self.rows])
        before, after = ([tag("p", line) for line in lines] for lines in (self.before, self.after))
        return tag("div", before, tag("table", head, body), after)
