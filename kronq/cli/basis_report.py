"""Report of ``kronq basis``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from kronq.cores.basis_file import open_basis_file
from kronq.model.frozen_bases import describe_recipe


class BasisReport(BaseModel):
    """What a basis file has."""

    output: str
    bases: str
    layers: int
    bytes: int


def report_basis(output: str) -> BasisReport:
    """Returns the report of a basis file that was written."""
    stored = open_basis_file(Path(output))
    return BasisReport(
        output=output,
        bases=describe_recipe(stored.recipe),
        layers=len(stored.pairs),
        bytes=Path(output).stat().st_size,
    )
