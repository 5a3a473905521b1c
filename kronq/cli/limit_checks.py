"""Limits on the error and on the task's loss, above which ``kronq quantize`` writes no adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kronq.evaluate.search_result import SearchResult
    from kronq.report.report import Report


def error_above(report: Report, limit: float | None, *, calibrated: bool) -> str | None:
    """Returns the line that says that the error is above a limit; None where it is not.

    Args:
        report: The report of the file.
        limit: Largest relative error; None for no limit.
        calibrated: Whether the codes were chosen by calibration, whose error then counts.
    """
    if limit is None:
        return None
    name, error = "relative error of ΔW", report.total.relative_error
    if calibrated and report.calibration is not None:
        if report.calibration.gradients:
            name, error = "error as the loss sees it", report.total.loss_error or 0.0
        else:
            name, error = "activation error", report.total.activation_error or 0.0
    if error <= limit:
        return None
    return f"kronq: the {name} is {100 * error:.3g} %, above {100 * limit:g} %; {_NOTHING}"


def loss_above(result: SearchResult) -> str | None:
    """Returns the line that says that the held-out check failed; None where it did not."""
    from kronq.evaluate.task_tables import format_change

    if result.within:
        return None
    return (
        "kronq: on held-out examples the loss grew by "
        f"{format_change(result.change.loss_increase)}, "
        f"more than {100 * result.max_loss_increase:g} %; {_NOTHING} "
        "(hint: more questions make the choice surer, a larger budget the file smaller)"
    )


_NOTHING = "no adapter was written"
