"""Limits on the error and on the task's loss, above which ``kronq quantize`` writes no adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kronq.report.report import Report
    from kronq.report.task import SearchResult


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
    from kronq.report.display.task_view import format_change, tell_share

    if result.within:
        return None
    cost = (
        f"the loss grew by {format_change(result.change.loss_increase)}, "
        f"more than {100 * result.max_loss_increase:g} %"
    )
    if result.keep is not None:
        kept = tell_share(result.change.gain_kept)
        cost = f"the share of the gain kept is {kept}, less than {100 * result.keep:g} %"
    return (
        f"kronq: on held-out examples {cost}; {_NOTHING} "
        "(hint: more questions make the choice surer, a larger budget the file smaller)"
    )


_NOTHING = "no adapter was written"
