"""Sections of the page, from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from kronq.report.bound import GaussianBound
from kronq.report.comparison_models import Comparison
from kronq.report.html.bars import histogram
from kronq.report.html.chart import chart
from kronq.report.html.curves import chart_series
from kronq.report.html.header import header
from kronq.report.html.heat import heat_map
from kronq.report.html.layer_tables import layer_tables
from kronq.report.markup import Child, Markup, join, tag
from kronq.report.models import LayerStatistics
from kronq.report.report import Report

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Content security policy: nothing is fetched and no script runs."""


def page(report: Report, comparison: Comparison | None, bound: GaussianBound | None) -> Markup:
    """Returns the whole document."""
    name = page_title(report)
    sections = [
        header(report, name),
        _chart_section(report, comparison, bound),
        _map_section(report),
        _layer_section(report),
        _code_section(report),
        _recipe_section(report),
    ]
    document = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{name}: what quantizing it cost"),
            tag("style", Markup(files(__package__).joinpath("style.css").read_text("utf-8"))),
        ),
        tag("body", tag("main", sections)),
        lang="en",
    )
    return join([Markup("<!DOCTYPE html>\n"), document])


def page_title(report: Report) -> str:
    """Returns the name of the adapter's folder or file, or its family."""
    return Path(report.source).name if report.source else f"a {report.family} adapter"


def _chart_section(
    report: Report, comparison: Comparison | None, bound: GaussianBound | None
) -> Markup:
    series = chart_series(report, comparison, bound)
    if not series:
        return Markup()
    lead = "Relative error of ΔW over bits per parameter, both of whole files."
    if bound is not None:
        lead += (
            " No code that knows nothing but Gaussian factors can be below the dashed line; "
            "docs/explanation/derivations.md derives it."
        )
    return _section(
        "Error and size",
        lead,
        tag("div", chart(series, report.total.parameters, title="Error over size"), class_="plot"),
    )


def _map_section(report: Report) -> Markup:
    layers = report.layers
    maps = [
        ("Relative error of ΔW, %", heat_map(
            layers, lambda m: m.relative_error, unit="%", ramp="error",
            title="Relative error of ΔW by layer")),
        ("Activation error, %", heat_map(
            layers, lambda m: m.activation_error, unit="%", ramp="error",
            title="Activation error by layer")),
        ("Bits spent per parameter", heat_map(
            layers, lambda m: m.bits_spent / m.parameters, unit="bits", ramp="bits",
            title="Bits spent per parameter by layer") if _costs_differ(layers) else None),
    ]  # fmt: skip
    figures = [
        tag("figure", tag("figcaption", caption), tag("div", drawing, class_="plot"))
        for caption, drawing in maps
        if drawing is not None
    ]
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
