"""Report of ``kronq convert``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from kronq.model.adapter import Adapter
from kronq.model.layer_names import describe_names, name_template
from kronq.writers.contents import Contents
from kronq.writers.low_rank import RankLoss

if TYPE_CHECKING:
    from kronq.report.display.table_view import TableView


class LayerLoss(BaseModel):
    """What a layer lost by becoming a LoRA of a smaller rank."""

    name: str
    rank: int
    relative_error: float


class ConvertReport(BaseModel):
    """Sizes of the adapter that was written, and of its source; what ``--rank`` cost."""

    output: str
    form: str
    family: str
    layers: int
    rank: int
    parameters: int
    bytes: int
    parameters_before: int
    bytes_before: int
    relative_error: float | None = None
    layer_errors: list[LayerLoss] | None = None


def report_copy(adapter: Adapter, output: str, form: str) -> ConvertReport:
    """Reports an adapter that keeps its factors."""
    ranks = {name: delta.rank for name, delta in adapter.items()}
    return _report(adapter, output, form, adapter.family, ranks, adapter.parameters)


def report_conversion(
    before: Adapter, written: Contents, output: str, form: str, losses: Mapping[str, RankLoss]
) -> ConvertReport:
    """Reports what was written, and what each layer lost by ``--rank``."""
    report = _report(before, output, form, written.family, written.ranks, written.parameters)
    if losses:
        report.relative_error = RankLoss.combine(losses.values()).relative_error
        report.layer_errors = [
            LayerLoss(name=name, rank=loss.rank, relative_error=loss.relative_error)
            for name, loss in losses.items()
        ]
    return report


def _report(
    before: Adapter,
    output: str,
    form: str,
    family: str,
    ranks: Mapping[str, int],
    parameters: int,
) -> ConvertReport:
    path = Path(output)
    files = [path] if path.is_file() else [*path.glob("*.safetensors")]
    return ConvertReport(
        output=output,
        form=form,
        family=family,
        layers=len(ranks),
        rank=max(ranks.values()),
        parameters=parameters,
        bytes=sum(file.stat().st_size for file in files),
        parameters_before=before.parameters,
        bytes_before=before.origin.file_bytes,
    )


def summary_line(report: ConvertReport) -> str:
    """Returns what was written, in one line."""
    name = "LoKr" if report.family == "kron" else "LoRA"
    return (
        f"wrote {report.output}: {name}, {report.layers} layers, rank {report.rank}, "
        f"{report.parameters:,} parameters (from {report.parameters_before:,}), "
        f"{report.bytes:,} bytes (from {report.bytes_before:,})"
    )


def loss_table(losses: Mapping[str, RankLoss], *, every_layer: bool) -> TableView:
    """Returns what ``--rank`` cost, the worst layers first.

    Args:
        losses: Of every layer.
        every_layer: Whether layers that differ in a number have rows of their own.
    """
    from kronq.report.display.table_view import TableView

    groups: dict[str, list[str]] = {}
    for name in losses:
        groups.setdefault(name if every_layer else name_template(name), []).append(name)
    rows = [
        (describe_names(names), len(names), RankLoss.combine(losses[name] for name in names))
        for names in groups.values()
    ]
    rows.sort(key=lambda row: -row[2].relative_error)
    rows.append(("total", len(losses), RankLoss.combine(losses.values())))
    cells = [
        [
            f"{name} ×{count}" if count > 1 else name,
            str(loss.rank),
            f"{100 * loss.relative_error:.3g}",
        ]
        for name, count, loss in rows
    ]
    return TableView(["layers", "rank", "error %"], cells)
