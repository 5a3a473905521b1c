"""Groups of layers of a report: layers that differ only in a number, and their joint statistics."""

from __future__ import annotations

from collections.abc import Iterable

from kronq.model.layer_names import describe_names, name_template
from kronq.report.models import LayerStatistics, Statistics
from kronq.report.statistics import add_statistics, layer_sums, statistics_fields


def sort_by_error(layers: Iterable[LayerStatistics]) -> list[LayerStatistics]:
    """Sorts layers by falling relative error."""
    return sorted(layers, key=lambda layer: -layer.relative_error)


def group_layers(layers: Iterable[LayerStatistics]) -> dict[str, list[LayerStatistics]]:
    """Groups layers of one shape whose names differ only in a number, the worst group first.

    Returns:
        Name template of the group → its layers.
    """
    groups: dict[str, list[LayerStatistics]] = {}
    for layer in layers:
        groups.setdefault(f"{name_template(layer.name)} {layer.shape}", []).append(layer)
    named = {describe_names([m.name for m in group]): group for group in groups.values()}
    return dict(sorted(named.items(), key=lambda item: -combine_layers(item[1]).relative_error))


def combine_layers(layers: Iterable[LayerStatistics]) -> Statistics:
    """Returns the statistics of several layers as of one; bytes do not include a header."""
    total = add_statistics(layer_sums(layer) for layer in layers)
    return Statistics.model_validate(statistics_fields(total))
