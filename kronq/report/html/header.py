"""The head of the page: what was made, and the figures that matter most."""

from __future__ import annotations

from kronq.report.html.chart import percent, size
from kronq.report.html.markup import Markup, tag
from kronq.report.measurement import worst_first
from kronq.report.models import Report


def header(report: Report, name: str) -> Markup:
    """Title, one sentence, and a tile for each figure."""
    total = report.total
    how = f"{report.method} at {report.bits:g} bits" if report.method and report.bits else "as is"
    lead = (
        f"{report.family} adapter, {len(report.layers)} layers, {total.parameters:,} parameters, "
        f"quantized: {how}."
    )
    rate = f"{total.bits_per_parameter:.2f} bit/parameter, was {size(total.bytes_before)}"
    tiles: list[tuple[str, str, str]] = [
        ("Whole file", size(total.bytes), rate),
        ("Error of ΔW", percent(total.relative_error), f"{_db(total.snr_db)} SNR"),
        ("Cosine", cosine(total.cosine), f"{percent(total.energy_kept)} of the energy kept"),
        ("Spectral error", percent(total.spectral_error), "of the largest singular value"),
    ]
    if total.activation_error is not None:
        told = f"{_db(total.activation_snr_db)} SNR, on calibrated inputs"
        tiles.insert(2, ("Activation error", percent(total.activation_error), told))
    if total.loss_error is not None:
        tiles.insert(3, ("Error as the loss sees it", percent(total.loss_error), "to first order"))
    if total.bits_above_bound is not None and total.bound_snr_db is not None:
        side = "above" if total.bits_above_bound >= 0 else "below"
        told = f"bit/parameter {side} it; {_db(total.bound_snr_db)} in as many bits"
        tiles.append(("Gaussian bound", f"{abs(total.bits_above_bound):.2f}", told))
    worst = worst_first(report.layers)[0]
    tiles.append(("Worst layer", percent(worst.relative_error), worst.name))
    return tag(
        "header",
        tag("h1", name),
        tag("p", lead),
        tag(
            "dl",
            [tag("div", tag("dt", label), tag("dd", value, tag("small", told)))
             for label, value, told in tiles],
            class_=f"tiles across-{3 if len(tiles) in (5, 6, 9) else 4}",
        ),
    )  # fmt: skip


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
