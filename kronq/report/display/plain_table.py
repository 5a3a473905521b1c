"""Table of rich whose cells are text as it is: no markup, and control characters escaped."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from kronq.errors import printable


class PlainTable(Table):
    """Table without borders, whose cells may come from a file."""

    def __init__(self, *headers: str, show_header: bool = True) -> None:
        super().__init__(*headers, box=None, pad_edge=False, show_header=show_header)

    def add_cells(self, *cells: str) -> None:
        """Adds a row of strings."""
        self.add_row(*(Text(printable(cell)) for cell in cells))
