"""The report of ``kronq.measure``, as JSON has it (formats/report.schema.json)."""

from __future__ import annotations

from pydantic import Field

from kronq.report.display.displayed import Displayed
from kronq.report.display.report_view import report_line, report_view
from kronq.report.display.table_view import TableView
from kronq.report.models import CalibrationData, CodeHistogram, LayerStatistics, TotalStatistics

SCHEMA_VERSION = 1


class Report(Displayed):
    """Size and error of a quantized adapter, layer by layer and in total.

    ``str(report)`` is a table; notebooks show it as one.
    """

    schema_version: int = SCHEMA_VERSION
    kronq_version: str | None = Field(default=None, description="Version that measured it.")
    source: str | None = Field(default=None, description="The adapter that was measured against.")
    family: str = Field(description="kron or lora.")
    base_model: str | None = None
    method: str | None = None
    bits: int | float | None = Field(default=None, description="The bits that were asked for.")
    axis: str | None = None
    group_size: int | None = None
    a_bits: int | None = None
    layer_bits: dict[str, int] = Field(default_factory=dict)
    refit: str | None = None
    calibration: CalibrationData | None = Field(
        default=None, description="Null where nothing was calibrated."
    )
    total: TotalStatistics
    layers: list[LayerStatistics]
    histograms: list[CodeHistogram] = Field(default_factory=list)

    def view(self) -> TableView:
        """Returns the report as a table."""
        return report_view(self)

    def __repr__(self) -> str:
        return report_line(self)
