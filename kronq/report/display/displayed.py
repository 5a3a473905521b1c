"""Base of models that are shown as a table."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from kronq.report.display.table_view import TableView


class Displayed(BaseModel):
    """Frozen model whose ``str`` is a table, and which notebooks show as one."""

    model_config = ConfigDict(frozen=True)

    def view(self) -> TableView:
        """Returns the table."""
        raise NotImplementedError

    def views(self) -> list[TableView]:
        """Returns all tables, in the order in which they are to be read."""
        return [self.view()]

    def __str__(self) -> str:
        return "\n\n".join(view.text() for view in self.views())

    def _repr_html_(self) -> str:
        return "".join(view.html() for view in self.views())
