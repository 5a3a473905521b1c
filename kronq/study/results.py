"""Files that a study's results are written to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kronq.io.files import write_file
from kronq.study.advice import advise
from kronq.study.page import write_page
from kronq.study.paired import contrasts
from kronq.study.pareto import family_deltas, is_on_front
from kronq.study.plots import plot_contrasts, plot_pareto
from kronq.study.published import Published
from kronq.study.row import Row
from kronq.study.seeds import seed_spreads, seed_variances
from kronq.study.steps import Plan
from kronq.study.store import Store
from kronq.study.summary import Cell, StudyReport, summarize
from kronq.study.table import collect
from kronq.study.table_file import write_table

TABLE, REPORT, PAGE = "table.parquet", "report.json", "page.html"
PARETO, CONTRASTS = "pareto.svg", "contrasts.svg"


def write_results(plan: Plan, store: Store, failed: list[str], published: Published) -> StudyReport:
    """Writes the table, plots, page and report of all that is done, and returns the report."""
    rows, root = collect(plan, store, published), store.root
    write_table(rows, root / TABLE)
    report = analyse(plan, rows, failed)
    pictures: dict[str, Path] = {}
    if any(cell.bytes for cell in report.cells):
        shown = [cell for cell in report.cells if cell.text_tokens is None]
        pictures["pareto"] = plot_pareto(shown, root / PARETO)
    if report.contrasts:
        pictures["contrasts"] = plot_contrasts(report.contrasts, root / CONTRASTS)
    files = [root / TABLE, root / PAGE, root / REPORT, *pictures.values()]
    report = report.model_copy(update={"files": [*map(str, files)]})
    write_page(report.model_copy(update={"files": []}), pictures, root / PAGE)
    write_file(root / REPORT, (report.model_dump_json(indent=1) + "\n").encode(), force=True)
    return report


def analyse(plan: Plan, rows: Sequence[Row], failed: list[str]) -> StudyReport:
    """Returns what the rows of a study say."""
    reference = plan.study.reference or next(iter(plan.study.families))
    cells = summarize(rows)
    tasks = [cell for cell in cells if cell.text_tokens is None]
    deltas = family_deltas(tasks, reference)
    return StudyReport(
        name=plan.study.name,
        cells=[_placed(cell, tasks, deltas) for cell in cells],
        contrasts=contrasts(rows, plan.study.pairs),
        advice=[each.sentence for each in advise(tasks)],
        seed_spreads=seed_spreads(rows),
        seed_variances=seed_variances(rows),
        left_out=[
            f"{r.label}, seed {r.seed}, {r.method} {r.setting}: {r.left_out}"
            for r in rows
            if r.left_out
        ],
        failed=failed,
        files=[],
    )


def _placed(
    cell: Cell, cells: Sequence[Cell], deltas: dict[tuple[str, str, str], float | None]
) -> Cell:
    if cell.text_tokens is not None:
        return cell
    bd = deltas.get((cell.curve, cell.trained_on, cell.task))
    return cell.model_copy(update={"on_front": is_on_front(cell, cells), "bd_nll": bd})
