"""The report of ``kronq.measure``, as JSON has it (formats/report.schema.json)."""

from __future__ import annotations

from pydantic import Field

from kronq.model.other_parts import OtherParts
from kronq.report.display.displayed import Displayed
from kronq.report.display.report_view import report_line, report_view
from kronq.report.display.table_view import TableView
from kronq.report.display.task_view import result_view
from kronq.report.models import CalibrationData, CodeHistogram, LayerStatistics, TotalStatistics
from kronq.report.task import SearchResult

SCHEMA_VERSION = 1


class Report(Displayed):
    """Size and error of a quantized adapter, layer by layer and in total.

    ``str(report)`` is a table; notebooks show it as one.
    """

    schema_version: int = SCHEMA_VERSION
    task: SearchResult | None = Field(
        default=None,
        description="The task that the file's size was chosen by, and what it lost of that on "
        "held-out examples; null where no task chose it.",
    )
    error_note: str | None = Field(
        default=None,
        description="Why the error of ΔW is large where it was made large on purpose, for the "
        "task's sake.",
    )
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
    other_parts: OtherParts | None = Field(
        default=None, description="What is stored as trained beside the factors."
    )
    total: TotalStatistics
    layers: list[LayerStatistics]
    histograms: list[CodeHistogram] = Field(default_factory=list)

    def view(self) -> TableView:
        """Returns the errors of ΔW as a table."""
        return report_view(self)

    def views(self, *, every_layer: bool = False) -> list[TableView]:
        """Returns the table of the task, if there is one, and then that of the errors of ΔW.

        Args:
            every_layer: Whether each layer has a row of its own.
        """
        errors = report_view(self, every_layer=every_layer)
        if self.task is None:
            return [errors]
        return [result_view(self.task, self.total.bytes, self.total.bytes_before), errors]

    def __repr__(self) -> str:
        return report_line(self)
