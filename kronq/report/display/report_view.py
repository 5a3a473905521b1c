"""Table of a report: a row for each group of layers, the totals, and further figures below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kronq.report.display.numbers import format_db, format_distinct, format_shape
from kronq.report.display.table_view import TableView
from kronq.report.groups import combine_layers, group_layers, sort_by_error
from kronq.report.models import Statistics, TotalStatistics

if TYPE_CHECKING:
    from kronq.report.report import Report

WORST_LAYERS = 3
_DROPPABLE = ("energy %", "before", "r", "ΔW", "SNR dB")
"""Columns that a narrow terminal leaves out, in this order."""


def report_view(report: Report, *, every_layer: bool = False) -> TableView:
    """Returns the table of a report, the worst group first.

    Args:
        report: As ``measure`` returns it.
        every_layer: Whether each layer has a row of its own.
    """
    groups = group_layers(report.layers)
    if every_layer:
        groups = {layer.name: [layer] for layer in sort_by_error(report.layers)}
    columns = ["layers", "ΔW", "r", "bits", "bit/param", "before", "bytes"]
    columns += ["error %", "SNR dB", "energy %"]
    rows = []
    for name, layers in groups.items():
        # Entropy-coded codes have no width.
        bits = "–" if report.method == "compact" else format_distinct(m.bits for m in layers)
        rows.append(
            [
                f"{name} ×{len(layers)}" if len(layers) > 1 else name,
                format_shape(layers[0].shape),
                format_distinct(m.rank for m in layers),
                bits,
                *_cells(combine_layers(layers), report),
            ]
        )
    total = f"total ×{len(report.layers)}, file"
    rows.append([total, "", "", "", *_cells(report.total, report)])
    if report.calibration:
        columns.append("activation %")
    return TableView(columns, rows, after=report_notes(report), droppable=_DROPPABLE)


def report_line(report: Report) -> str:
    """Returns a report in one line, for ``repr``."""
    total = report.total
    method = [report.method] if report.method else []
    snr = "exact" if total.snr_db is None else f"{total.snr_db:.2f} dB"
    parts = [
        " ".join([report.family, *method]),
        f"{len(report.layers)} layers",
        f"{total.bytes:,} bytes",
        f"{total.bits_per_parameter:.3f} bits per weight",
        f"error {100 * total.relative_error:.2f} %",
        f"SNR {snr}",
    ]
    return f"Report({', '.join(parts)})"


def report_notes(report: Report) -> list[str]:
    """Returns lines about the worst layers, layers that stayed float, and further figures."""
    total = report.total
    worst = sort_by_error(report.layers)[:WORST_LAYERS]
    lines = [report.error_note] if report.error_note else []
    lines += report.other_parts.lines() if report.other_parts else []
    lines.append("worst: " + ", ".join(f"{m.name} {100 * m.relative_error:.2f} %" for m in worst))
    kept = [m.name for m in report.layers if m.kept_float]
    if kept:
        lines.append(f"kept as float16, where codes would be no smaller: {', '.join(kept)}")
    lines.append(", ".join(_further_figures(total)))
    if total.activation_snr_db is not None and report.calibration is not None:
        source = f" of {report.calibration.source}" if report.calibration.source else ""
        lines.append(
            f"activations: {total.activation_snr_db:.2f} dB SNR on the inputs of "
            f"{report.calibration.tokens:,} tokens{source}"
        )
    if total.bound_snr_db is not None and total.bits_above_bound is not None:
        side = "above" if total.bits_above_bound >= 0 else "below"
        lines.append(
            f"Gaussian bound: {total.bound_snr_db:.2f} dB in as many bits; this file is "
            f"{abs(total.bits_above_bound):.2f} bit/param {side} it"
        )
    return lines


def _further_figures(total: TotalStatistics) -> list[str]:
    parts = [f"spectral error {100 * total.spectral_error:.2f} %"]
    if total.cosine is not None:
        parts.append(f"cosine {total.cosine:.5f}")
    if total.zero_share is not None:
        parts.append(f"{100 * total.zero_share:.1f} % of codes zero")
    if total.clipped_share is not None:
        parts.append(f"{100 * total.clipped_share:.2f} % of values clipped")
    if total.dead_components:
        parts.append(f"{total.dead_components:,} dead components")
    return parts


def _cells(statistics: Statistics, report: Report) -> list[str]:
    error = statistics.activation_error
    activation = "–" if error is None else f"{100 * error:.3f}"
    return [
        f"{statistics.bits_per_parameter:.3f}",
        f"{statistics.bytes_before:,}",
        f"{statistics.bytes:,}",
        f"{100 * statistics.relative_error:.3f}",
        format_db(statistics.snr_db),
        f"{100 * statistics.energy_kept:.2f}",
        *([activation] if report.calibration else []),
    ]
