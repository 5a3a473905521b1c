"""Header of the page: title, one sentence, and tiles of the main figures."""

from __future__ import annotations

from kronq.report.groups import sort_by_error
from kronq.report.html.chart import format_percent, format_size
from kronq.report.html.task_panel import task_panel
from kronq.report.markup import Markup, tag
from kronq.report.report import Report


def header(report: Report, name: str) -> Markup:
    """Returns the header."""
    total = report.total
    how = f"{report.method} at {report.bits:g} bits" if report.method and report.bits else "as is"
    lead = (
        f"{report.family} adapter, {len(report.layers)} layers, {total.parameters:,} parameters, "
        f"quantized: {how}."
    )
    rate = f"{total.bits_per_parameter:.2f} bit/parameter, was {format_size(total.bytes_before)}"
    tiles: list[tuple[str, str, str]] = [
        ("Whole file", format_size(total.bytes), rate),
        ("Error of ΔW", format_percent(total.relative_error), f"{_db(total.snr_db)} SNR"),
        (
            "Cosine",
            format_cosine(total.cosine),
            f"{format_percent(total.energy_kept)} of the energy kept",
        ),
        ("Spectral error", format_percent(total.spectral_error), "of the largest singular value"),
    ]
    if total.activation_error is not None:
        note = f"{_db(total.activation_snr_db)} SNR, on calibrated inputs"
        tiles.insert(2, ("Activation error", format_percent(total.activation_error), note))
    if total.loss_error is not None:
        tiles.insert(
            3, ("Error as the loss sees it", format_percent(total.loss_error), "to first order")
        )
    if total.bits_above_bound is not None and total.bound_snr_db is not None:
        side = "above" if total.bits_above_bound >= 0 else "below"
        note = f"bit/parameter {side} it; {_db(total.bound_snr_db)} in as many bits"
        tiles.append(("Gaussian bound", f"{abs(total.bits_above_bound):.2f}", note))
    worst = sort_by_error(report.layers)[0]
    tiles.append(("Worst layer", format_percent(worst.relative_error), worst.name))
    return tag(
        "header",
        tag("h1", name),
        tag("p", lead),
        [tag("p", line) for line in report.other_parts.lines()] if report.other_parts else None,
        task_panel(report),
        tag("p", report.error_note) if report.error_note else None,
        tag(
            "dl",
            [tag("div", tag("dt", label), tag("dd", value, tag("small", note)))
             for label, value, note in tiles],
            class_=f"tiles across-{3 if len(tiles) in (5, 6, 9) else 4}",
        ),
    )  # fmt: skip


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def format_cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
