"""Reports for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from kronq.errors import printable
from kronq.report.comparison import Comparison, Row
from kronq.report.measurement import Figures, Report, Total, grouped, summed, worst_first
from kronq.report.summary import Summary

WORST = 3


def report_table(report: Report) -> Table:
    """A line per group of layers, worst first, and the total."""
    columns = ["layers", "ΔW", "r", "bits", "bit/param", "bytes", "error %", "SNR dB", "energy %"]
    table = _table(*columns, *(["activation %"] if report.calibration else []))
    for name, layers in grouped(report.layers).items():
        table.add_row(
            printable(f"{name} ×{len(layers)}" if len(layers) > 1 else name),
            _shape(layers[0].shape),
            _same(m.rank for m in layers),
            # Entropy-coded codes have no width.
            "–" if report.method == "compact" else _same(m.bits for m in layers),
            *_figures(summed(layers), report),
        )
    table.add_section()
    table.add_row(f"total ×{len(report.layers)}, file", "", "", "", *_figures(report.total, report))
    return table


def report_notes(report: Report) -> list[str]:
    """The worst layers, those that stayed floating point, further figures, and the bounds."""
    worst = worst_first(report.layers)[:WORST]
    lines = ["worst: " + ", ".join(f"{m.name} {100 * m.relative_error:.2f} %" for m in worst)]
    kept = [m.name for m in report.layers if m.kept_float]
    if kept:
        lines.append(f"kept as float16, where codes would be no smaller: {', '.join(kept)}")
    total = report.total
    lines.append(", ".join(_further(total)))
    if total.activation_snr_db is not None and report.calibration is not None:
        source = f" of {report.calibration.source}" if report.calibration.source else ""
        lines.append(
            f"activations: {total.activation_snr_db:.2f} dB SNR on the inputs of "
            f"{report.calibration.tokens:,} tokens{source}"
        )
    lines += _bound("Gaussian bound", total.bound_snr_db, total.bits_above_bound)
    return lines


def _further(total: Total) -> list[str]:
    """What of the codes and of ΔW the table has no column for."""
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


def _bound(name: str, snr: float | None, above: float | None) -> list[str]:
    if snr is None or above is None:
        return []
    side = "above" if above >= 0 else "below"
    told = f"{snr:.2f} dB in as many bits; this file is {abs(above):.2f} bit/param {side} it"
    return [f"{name}: {told}"]


def summary_table(summary: Summary) -> Table:
    """A line per group of layers, and the total."""
    table = _table(
        "layers", "ΔW", "A", "B", "r", "scale", "stored as", "parameters", "bytes", "bit/param"
    )
    for group in summary.groups:
        table.add_row(
            printable(f"{group.layers} ×{group.count}" if group.count > 1 else group.layers),
            _shape(group.shape),
            _shape(group.a) if group.a else "–",
            _shape(group.b),
            str(group.rank),
            f"{group.scale:g}",
            ", ".join(dict.fromkeys(group.dtypes)),
            f"{group.parameters:,}",
            f"{group.bytes:,}",
            f"{group.bits_per_parameter:.3f}",
        )
    table.add_section()
    table.add_row(
        f"total ×{summary.layers}, file",
        *[""] * 6,
        f"{summary.parameters:,}",
        f"{summary.bytes:,}",
        f"{summary.bits_per_parameter:.3f}",
    )
    return table


def comparison_table(comparison: Comparison) -> Table:
    """A line per adapter and width."""
    several = any(row.equal_bytes for row in comparison.rows)
    columns = ["adapter", "family", "method", "bits", "parameters", "bytes", "bit/param"]
    columns += ["error %", "SNR dB", "above bound"] + ["others in no more bytes"] * several
    table = _table(*columns)
    last = None
    for row in comparison.rows:
        if last not in (None, row.adapter):
            table.add_section()
        last = row.adapter
        table.add_row(
            row.adapter,
            row.family,
            row.method,
            f"{row.bits:g}",
            f"{row.parameters:,}",
            f"{row.bytes:,}",
            f"{row.bits_per_parameter:.3f}",
            f"{100 * row.relative_error:.2f}",
            _db(row.snr_db),
            _above(row.bits_above_bound),
            *([_others(row)] if several else []),
        )
    return table


def _others(row: Row) -> str:
    return "; ".join(
        f"{name}: {_db(fit.snr_db)} dB ({fit.bits:g} bit, {fit.bytes:,})"
        if fit
        else f"{name}: none"
        for name, fit in row.equal_bytes.items()
    )


def _figures(figures: Figures, report: Report) -> list[str]:
    activation = figures.activation_error
    seen = "–" if activation is None else f"{100 * activation:.3f}"
    return [
        f"{figures.bits_per_parameter:.3f}",
        f"{figures.bytes_before:,} → {figures.bytes:,}",
        f"{100 * figures.relative_error:.3f}",
        _db(figures.snr_db),
        f"{100 * figures.energy_kept:.2f}",
        *([seen] if report.calibration else []),
    ]


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.2f}"


def _above(bits: float | None) -> str:
    return "–" if bits is None else f"{bits:.2f}"


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"


def _same(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return "/".join(map(str, found))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    left = {"layers", "adapter", "family", "method", "stored as", "others in no more bytes"}
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    return table
