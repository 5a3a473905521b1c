"""Comparison of adapters over widths, as in the JSON of ``kronq compare``, and its baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from kronq.model.adapter import Adapter
from kronq.report.display.comparison_view import comparison_line, comparison_view
from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView
from kronq.report.models import TotalStatistics


class BaselineFile(Protocol):
    """Adapter in the file of another tool."""

    @property
    def adapter(self) -> Adapter: ...

    @property
    def nbytes(self) -> int: ...


class Baseline(Protocol):
    """Another tool at one setting; ``benchmarks.baselines`` of a checkout has some."""

    @property
    def name(self) -> str: ...

    @property
    def bits(self) -> int: ...

    @property
    def how(self) -> str: ...

    @property
    def run(self) -> Callable[[Adapter], BaselineFile]: ...


class EqualBytesFit(BaseModel):
    """Best result of kronq for another adapter in as many bytes (or 1 % more)."""

    model_config = ConfigDict(frozen=True)

    method: str
    bits: int | float
    bytes: int
    relative_error: float
    snr_db: float | None


class ComparisonRow(TotalStatistics):
    """Statistics of one adapter at one width."""

    adapter: str
    family: str
    method: str = Field(description="Of kronq; or a baseline, and its setting.")
    bits: int | float = Field(description="As asked for. A baseline: of its codes, without scales.")
    source: Literal["kronq", "baseline"] = "kronq"
    how: str | None = Field(default=None, description="Whose code computed a baseline.")
    given_bytes: int | None = Field(
        default=None, description="Bytes that the file might have; null: they follow from bits."
    )
    equal_bytes: dict[str, EqualBytesFit | None] = Field(
        default_factory=dict,
        description="Every other adapter → its best in no more bytes; null if nothing fits.",
    )


class BoundPoint(BaseModel):
    """Point of an adapter's Gaussian rate–distortion bound."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    snr_db: float = Field(description="The largest SNR of ΔW in a file of so many bytes.")


class Verdict(BaseModel):
    """Who loses least at equal bytes, at every size at which two can be compared.

    Of two files of one size (to within 1 %), or of which the smaller one has the smaller error,
    that one is ahead; sizes at which neither holds say nothing. Float16 takes no part.
    """

    model_config = ConfigDict(frozen=True)

    between: Literal["adapters", "methods"]
    margins_db: dict[str, list[float]] = Field(
        description="Who is ahead anywhere → SNR of ΔW beyond the second, at each size where it "
        "is; the one that is ahead most often comes first."
    )

    @property
    def winner(self) -> str | None:
        """Who is ahead at most sizes; None where nothing can be compared."""
        return next(iter(self.margins_db), None)


class Comparison(Displayed):
    """Statistics of all adapters at all widths, each as the file that ``save`` would write.

    ``str(comparison)`` is a table; notebooks show it as one.
    """

    schema_version: int = 1
    rows: list[ComparisonRow]
    bounds: dict[str, list[BoundPoint]] = Field(
        default_factory=dict, description="Every adapter → its bound, by rising bytes."
    )

    left_out: list[str] = Field(
        default_factory=list, description="Files that cannot be as small as was asked, and why."
    )
    verdict: Verdict | None = Field(
        default=None, description="Null where there is only one adapter and one method."
    )

    def view(self) -> TableView:
        """Returns the comparison as a table."""
        return comparison_view(self)

    def __repr__(self) -> str:
        return comparison_line(self)
