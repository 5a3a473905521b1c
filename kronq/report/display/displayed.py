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

    def __str__(self) -> str:
        return self.view().text()

    def _repr_html_(self) -> str:
        return self.view().html()
