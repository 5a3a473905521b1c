"""Table of a summary: a row for each group of layers, and the totals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kronq.report.display.numbers import format_shape
from kronq.report.display.table_view import TableView
from kronq.report.error_note import error_note

if TYPE_CHECKING:
    from kronq.report.summary import GroupSummary, Summary

_COLUMNS = (
    "layers", "ΔW", "kernel", "DoRA", "A", "B", "r", "scale", "stored as", "parameters", "bytes",
    "bit/param",
)  # fmt: skip
_DROPPABLE = ("B", "parameters", "stored as", "A", "DoRA", "ΔW", "kernel")
"""Columns that a narrow terminal leaves out, in this order."""


def summary_view(summary: Summary) -> TableView:
    """Returns the table of a summary, with lines about the adapter above it."""
    rows = [
        [
            f"{group.layers} ×{group.count}" if group.count > 1 else group.layers,
            format_shape(group.shape),
            "×".join(map(str, group.kernel)) or "–",
            _magnitude(group),
            format_shape(group.a) if group.a else "–",
            format_shape(group.b),
            str(group.rank),
            f"{group.scale:g}",
            ", ".join(dict.fromkeys(group.dtypes)),
            f"{group.parameters:,}",
            f"{group.bytes:,}",
            f"{group.bits_per_parameter:.3f}",
        ]
        for group in summary.groups
    ]
    total = [f"{summary.parameters:,}", f"{summary.bytes:,}", f"{summary.bits_per_parameter:.3f}"]
    rows.append([f"total ×{summary.layers}, file", *[""] * 8, *total])
    parts = summary.other_parts
    absent = {
        name
        for name, there in (("kernel", parts.convolutions), ("DoRA", parts.magnitudes))
        if not there
    }
    shown = [place for place, name in enumerate(_COLUMNS) if name not in absent]
    return TableView(
        [_COLUMNS[place] for place in shown],
        [[row[place] for place in shown] for row in rows],
        before=_heading(summary),
        droppable=_DROPPABLE,
    )


def summary_line(summary: Summary) -> str:
    """Returns a summary in one line, for ``repr``."""
    parts = [f"{summary.family} adapter ({summary.format})", f"{summary.layers} layers"]
    parts += [f"{summary.parameters:,} parameters", f"{summary.bytes:,} bytes"]
    return f"Summary({', '.join(parts)})"


def _magnitude(group: GroupSummary) -> str:
    """Returns what DoRA's magnitude has a value for."""
    if group.magnitude is None:
        return "–"
    return "outputs" if group.magnitude[1] == 1 else "inputs"


def _heading(summary: Summary) -> list[str]:
    title = f"{summary.path}: {summary.family} adapter ({summary.format})"
    if summary.base_model:
        title += f", base {summary.base_model}"
    lines = [title]
    if summary.system and not summary.bases:
        lines.append(f"trained by {summary.system}")
    if summary.recipe:
        settings = (
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in summary.recipe.items()
            if value not in (None, {}) and key != "task"
        )
        if task := summary.recipe.get("task"):
            lines.append(_task_line(task))
        lines.append("quantized: " + ", ".join(settings))
        recipe = (summary.recipe.get(key) for key in ("method", "refit", "relative_error"))
        if note := error_note(*recipe):
            lines.append(note)
    if summary.provenance:
        lines.append(_provenance_line(summary.provenance))
    if summary.base_weights:
        lines.append(f"calibrated or tested with a base of weights {summary.base_weights}")
    if summary.checksum:
        told = "is of these contents" if summary.verified else "was not compared (--verify)"
        lines.append(f"checksum {summary.checksum} {told}")
    return lines + summary.other_parts.lines()


def _provenance_line(told: Mapping[str, str | None]) -> str:
    parts = {
        "SHA-256 {}…": told["source"],
        "scale rule {}": told["scale_rule"],
        "calibration {}": told["calibration"],
        "by kronq {}": told["kronq"],
    }
    texts = [text.format(value) for text, value in parts.items() if value]
    return ", ".join([f"made of: {told['format']}", *texts])


def _task_line(task: dict[str, Any]) -> str:
    low, high = (100 * end for end in task["interval"])
    text = (
        f"task: {task['data']}, {task['examples']} held-out examples, "
        f"loss {100 * task['loss_increase']:+.2f} % ({low:+.2f} to {high:+.2f}), "
        f"{100 * task['max_loss_increase']:g} % allowed"
    )
    if task["accuracy"] is not None:
        text += f"; accuracy {100 * task['accuracy']:.1f} %"
    if task["accuracy_before"] is not None:
        text += f", {100 * task['accuracy_before']:.1f} % before"
    return text
