"""Sections of the page, from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kronq.report.bound import GaussianBound
from kronq.report.html.bars import histogram
from kronq.report.html.chart import charts
from kronq.report.html.curves import chart_series
from kronq.report.html.document import html_document
from kronq.report.html.header import header
from kronq.report.html.heat import heat_map
from kronq.report.html.layer_tables import layer_tables
from kronq.report.html.width_curves import WidthCurves
from kronq.report.markup import Child, Markup, join, tag
from kronq.report.models import LayerStatistics
from kronq.report.report import Report


def page(report: Report, curves: WidthCurves, bound: GaussianBound | None) -> Markup:
    """Returns the whole document."""
    name = page_title(report)
    sections = [
        header(report, name),
        _chart_section(report, curves, bound),
        _map_section(report),
        _layer_section(report),
        _code_section(report),
        _recipe_section(report),
    ]
    return html_document(f"{name}: what quantizing it cost", sections)


def page_title(report: Report) -> str:
    """Returns the name of the adapter's folder or file, or its family."""
    return Path(report.source).name if report.source else f"a {report.family} adapter"


def _chart_section(report: Report, curves: WidthCurves, bound: GaussianBound | None) -> Markup:
    series = chart_series(report, curves.points, bound)
    if not series:
        return Markup()
    lead = "Relative error of ΔW over bits per parameter, both of whole files."
    if bound is not None:
        lead += (
            " No code that knows nothing but Gaussian factors can be below the dashed line; "
            "docs/explanation/derivations.md derives it."
        )
    if curves.layers < curves.of:
        lead += f" The lines are estimated on {curves.layers} of the {curves.of} layers."
    return _section(
        "Error and size", lead, charts(series, report.total.parameters, title="Error over size")
    )


def _map_section(report: Report) -> Markup:
    layers = report.layers
    maps = [
        heat_map(layers, lambda m: m.relative_error, title="Relative error of ΔW", ramp="error",
                 unit="%"),
        heat_map(layers, lambda m: m.activation_error, title="Activation error", ramp="error",
                 unit="%"),
        heat_map(layers, lambda m: m.bits_spent / m.parameters, title="Bits spent per parameter",
                 ramp="bits", unit="bits") if _costs_differ(layers) else None,
    ]  # fmt: skip
    figures = [drawing for drawing in maps if drawing is not None]
    if not figures:
        return Markup()
    lead = "A column for every block of the model, a row for every kind of layer in it."
    return _section("Where it is", lead, figures)


def _costs_differ(layers: Sequence[LayerStatistics]) -> bool:
    """Returns whether layers differ in bits per parameter by more than a fifth."""
    bits = [m.bits_spent / m.parameters for m in layers]
    return max(bits) > 1.2 * min(bits)


def _layer_section(report: Report) -> Markup:
    lead = (
        "Error is ‖ΔW − ΔŴ‖ / ‖ΔW‖; spectral error the same of the largest singular values. "
        "Clipped values lie beyond the outermost code; a dead component adds nothing."
    )
    return _section("Layers", lead, layer_tables(report))


def _code_section(report: Report) -> Markup:
    if not report.histograms:
        return Markup()
    lead = "How often each code occurs in all of the adapter."
    if any(counts.kind == "levels" for counts in report.histograms):
        lead += " Levels are what entropy-coded codes mean, in steps; the last bars have the rest."
    return _section("Codes", lead, [histogram(counts) for counts in report.histograms])


def _recipe_section(report: Report) -> Markup:
    calibration = report.calibration
    calibrated = None
    if calibration is not None:
        calibrated = f"{calibration.source or 'yes'}, {calibration.tokens:,} tokens" + (
            ", with gradients of the loss" if calibration.gradients else ""
        )
    layers = ", ".join(f"{regex} = {bits}" for regex, bits in report.layer_bits.items())
    native = report.method not in (None, "fp16", "compact")
    facts = {
        "adapter": report.source,
        "family": report.family,
        "base model": report.base_model,
        "method": report.method,
        "bits asked for": None if report.bits is None else f"{report.bits:g}",
        "a scale for every": report.axis if native else None,
        "codes that share a scale": str(report.group_size or "a channel") if native else None,
        "bits of A": None if report.a_bits is None or not native else str(report.a_bits),
        "bits of some layers": layers or None,
        "calibrated on": calibrated,
        "measured by": f"kronq {report.kronq_version}, report schema {report.schema_version}",
    }
    return _section(
        "How it was made",
        None,
        tag(
            "dl",
            [[tag("dt", key), tag("dd", value)] for key, value in facts.items() if value],
            class_="made",
        ),
    )


def _section(heading: str, lead: str | None, *children: Child) -> Markup:
    return tag("section", tag("h2", heading), tag("p", lead) if lead else None, join(children))
