"""Tables of layers on the page."""

from __future__ import annotations

from collections.abc import Sequence

from kronq.report.display.numbers import format_distinct, format_shape
from kronq.report.groups import combine_layers, group_layers, sort_by_error
from kronq.report.html.chart import format_percent
from kronq.report.html.header import format_cosine
from kronq.report.markup import Child, table, tag
from kronq.report.models import LayerStatistics, Statistics
from kronq.report.report import Report

WORST_LAYERS = 10
_COLUMNS = [
    "bits", "bit/param", "error", "activation", "spectral", "cosine", "zero codes", "clipped",
    "dead",
]  # fmt: skip


def layer_tables(report: Report) -> list[Child]:
    """Returns a table of the kinds of layers, one of the worst layers, and one of all layers."""
    groups = group_layers(report.layers)
    without = {"bits"} if report.method == "compact" else set()
    without |= {"activation"} if report.calibration is None else set()
    columns = [column for column in _COLUMNS if column not in without]
    worst = sort_by_error(report.layers)[:WORST_LAYERS]
    words = ["layer", "ΔW"]
    return [
        table(
            "Kinds of layers, worst first",
            ["layers", "ΔW", *columns],
            [
                [
                    f"{name} ×{len(g)}",
                    format_shape(g[0].shape),
                    *_cells(combine_layers(g), format_distinct(m.bits for m in g), columns),
                ]
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


def _rows(layers: Sequence[LayerStatistics], columns: Sequence[str]) -> list[list[str]]:
    return [[m.name, format_shape(m.shape), *_cells(m, str(m.bits), columns)] for m in layers]


def _cells(statistics: Statistics, bits: str, columns: Sequence[str]) -> list[str]:
    dead = statistics.dead_components
    every = {
        "bits": bits,
        "bit/param": f"{statistics.bits_spent / statistics.parameters:.3f}",
        "error": format_percent(statistics.relative_error),
        "activation": format_percent(statistics.activation_error),
        "spectral": format_percent(statistics.spectral_error),
        "cosine": format_cosine(statistics.cosine),
        "zero codes": format_percent(statistics.zero_share),
        "clipped": format_percent(statistics.clipped_share),
        "dead": "–" if dead is None else str(dead),
    }
    return [every[column] for column in columns]
