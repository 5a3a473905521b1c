"""What stands on the page, from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from kronq.report.bound import GaussianBound
from kronq.report.comparison import Comparison
from kronq.report.html.bars import histogram
from kronq.report.html.chart import chart, percent
from kronq.report.html.curves import curves
from kronq.report.html.header import cosine, header
from kronq.report.html.heat import heat_map
from kronq.report.html.markup import Child, Markup, joined, table, tag
from kronq.report.measurement import grouped, summed, worst_first
from kronq.report.models import Figures, LayerReport, Report

WORST = 10
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is fetched and no script runs, whatever a name might try."""

HEAD = [
    "bits", "bit/param", "error", "activation", "spectral", "cosine", "zero codes", "clipped",
    "dead",
]  # fmt: skip


def page(report: Report, comparison: Comparison | None, bound: GaussianBound | None) -> Markup:
    """The whole document."""
    name = title_of(report)
    sections = [
        header(report, name),
        _curve(report, comparison, bound),
        _maps(report),
        _layers(report),
        _codes(report),
        _made(report),
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
    return joined([Markup("<!DOCTYPE html>\n"), document])


def title_of(report: Report) -> str:
    """The adapter's folder or file, or what it is."""
    return Path(report.source).name if report.source else f"a {report.family} adapter"


def _curve(report: Report, comparison: Comparison | None, bound: GaussianBound | None) -> Markup:
    series = curves(report, comparison, bound)
    if not series:
        return Markup()
    told = "Relative error of ΔW over bits per parameter, both of whole files."
    if bound is not None:
        told += (
            " No code that knows nothing but Gaussian factors can be below the dashed line; "
            "docs/explanation/derivations.md derives it."
        )
    return _section(
        "Error and size",
        told,
        tag("div", chart(series, report.total.parameters, title="Error over size"), class_="plot"),
    )


def _maps(report: Report) -> Markup:
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
            title="Bits spent per parameter by layer") if _uneven(layers) else None),
    ]  # fmt: skip
    figures = [
        tag("figure", tag("figcaption", caption), tag("div", drawn, class_="plot"))
        for caption, drawn in maps
        if drawn is not None
    ]
    if not figures:
        return Markup()
    told = "A column for every block of the model, a row for every kind of layer in it."
    return _section("Where it is", told, figures)


def _uneven(layers: Sequence[LayerReport]) -> bool:
    """Whether bits tell more than the shapes of layers do."""
    each = [m.bits_spent / m.parameters for m in layers]
    return max(each) > 1.2 * min(each)


def _layers(report: Report) -> Markup:
    groups = grouped(report.layers)
    without = {"bits"} if report.method == "compact" else set()
    without |= {"activation"} if report.calibration is None else set()
    columns = [column for column in HEAD if column not in without]
    worst = worst_first(report.layers)[:WORST]
    words = ["layer", "ΔW"]
    parts: list[Child] = [
        table(
            "Kinds of layers, worst first",
            ["layers", "ΔW", *columns],
            [
                [f"{name} ×{len(g)}", _shape(g[0]), *_figures(summed(g), _widths(g), columns)]
                for name, g in groups.items()
            ],
            words=2,
        ),
        table(f"The {len(worst)} worst layers", [*words, *columns], _rows(worst, columns), words=2),
        tag(
            "details",
            tag("summary", f"All {len(report.layers)} layers"),
            table("All layers", [*words, *columns], _rows(report.layers, columns), words=2),
        ),
    ]
    told = (
        "Error is ‖ΔW − ΔŴ‖ / ‖ΔW‖; spectral error the same of the largest singular values. "
        "Clipped values lie beyond the outermost code; a dead component adds nothing."
    )
    return _section("Layers", told, parts)


def _rows(layers: Sequence[LayerReport], columns: Sequence[str]) -> list[list[str]]:
    return [[m.name, _shape(m), *_figures(m, _widths([m]), columns)] for m in layers]


def _figures(figures: Figures, bits: str, columns: Sequence[str]) -> list[str]:
    dead = figures.dead_components
    every = {
        "bits": bits,
        "bit/param": f"{figures.bits_spent / figures.parameters:.3f}",
        "error": percent(figures.relative_error),
        "activation": percent(figures.activation_error),
        "spectral": percent(figures.spectral_error),
        "cosine": cosine(figures.cosine),
        "zero codes": percent(figures.zero_share),
        "clipped": percent(figures.clipped_share),
        "dead": "–" if dead is None else str(dead),
    }
    return [every[column] for column in columns]


def _widths(layers: Sequence[LayerReport]) -> str:
    return "/".join(str(bits) for bits in sorted({m.bits for m in layers}))


def _codes(report: Report) -> Markup:
    if not report.histograms:
        return Markup()
    told = "How often each code occurs in all of the adapter."
    if any(counts.kind == "levels" for counts in report.histograms):
        told += " Levels are what entropy-coded codes mean, in steps; the last bars have the rest."
    return _section("Codes", told, [histogram(counts) for counts in report.histograms])


def _made(report: Report) -> Markup:
    seen = report.calibration
    calibrated = None
    if seen is not None:
        calibrated = f"{seen.source or 'yes'}, {seen.tokens:,} tokens" + (
            ", with gradients of the loss" if seen.gradients else ""
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


def _section(heading: str, told: str | None, *children: Child) -> Markup:
    return tag("section", tag("h2", heading), tag("p", told) if told else None, joined(children))


def _shape(layer: LayerReport) -> str:
    return f"{layer.shape[0]}×{layer.shape[1]}"
