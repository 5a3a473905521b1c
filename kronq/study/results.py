"""Files that a study's results are written to."""

from __future__ import annotations

from kronq.io.files import write_file
from kronq.study.plan import Plan
from kronq.study.store import Store
from kronq.study.summary import StudyReport, summarize
from kronq.study.table import collect, write_table

TABLE, REPORT = "table.parquet", "report.json"


def write_results(plan: Plan, store: Store, failed: list[str]) -> StudyReport:
    """Writes the table and the report of all that is done, and returns the report."""
    rows = collect(plan, store)
    write_table(rows, store.root / TABLE)
    report = StudyReport(
        name=plan.study.name,
        cells=summarize(rows),
        left_out=[
            f"{r.label}, seed {r.seed}, {r.method} {r.setting}: {r.left_out}"
            for r in rows
            if r.left_out
        ],
        failed=failed,
        files=[str(store.root / TABLE), str(store.root / REPORT)],
    )
    write_file(store.root / REPORT, (report.model_dump_json(indent=1) + "\n").encode(), force=True)
    return report
