"""What a study found, as a table and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from pydantic import BaseModel, ConfigDict, Field

from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView
from kronq.study.paired import Contrast
from kronq.study.row import Row
from kronq.study.seeds import SeedSpread, SeedVariance

_Training = tuple[str, str, str, int | None]
"""Label, task that was trained on, task that is scored, seed."""


class Cell(BaseModel):
    """One family, stored in one way, on one task: means over seeds."""

    model_config = ConfigDict(frozen=True)

    label: str = Field(description="Label of the family; empty for the base.")
    method: str
    setting: str
    trained_on: str
    task: str
    seeds: int
    bytes: float | None = Field(description="Of the whole file, on average.")
    shared_bytes: int = Field(description="Bytes that a receiver has once or makes, beside it.")
    nll: float = Field(description="Nats a token.")
    nll_change: float | None = Field(description="Against the adapter as trained, relative.")
    accuracy: float | None
    recall: float
    text_tokens: int | None = Field(
        default=None, description="Of a text of no task, on which distributions are compared."
    )
    kl_base: float | None = Field(default=None, description="KL(base ‖ this), nats a token.")
    kl_trained: float | None = Field(default=None, description="KL(as trained ‖ this).")
    on_front: bool = Field(default=False, description="No file as small has less loss.")
    bd_nll: float | None = Field(
        default=None,
        description="Of the whole family: mean difference of the NLL to the reference family at "
        "equal bytes, over the logarithm of bytes (Bjøntegaard delta); a baseline's files count "
        "apart from kronq's.",
    )

    @property
    def curve(self) -> str:
        """Files that a plot joins: the label, and the baseline's name where one made the file."""
        by_baseline = self.method != "" and self.method == self.setting
        return f"{self.label}, {self.method.split()[0]}" if by_baseline else self.label


class StudyReport(Displayed):
    """What a study found."""

    schema_version: int = 1
    name: str
    cells: list[Cell]
    contrasts: list[Contrast] = Field(description="What quantization costs one of a pair more.")
    advice: list[str] = Field(description="What has the least loss within each of some sizes.")
    seed_spreads: list[SeedSpread]
    seed_variances: list[SeedVariance]
    left_out: list[str] = Field(description="Files that cannot be made, and why.")
    failed: list[str] = Field(description="Adapters that could not be trained, and why.")
    files: list[str] = Field(description="What was written.")

    def view(self) -> TableView:
        """Returns the report as a table."""
        cells = [cell for cell in self.cells if cell.text_tokens is None]
        several = len({(c.trained_on, c.task) for c in cells}) > 2
        rows = [_cells(cell, several) for cell in cells]
        columns = ["family", "stored as", "bytes", "NLL", "change", "BD", "accuracy", "seeds"]
        after = [f"best {line}" for line in self.advice]
        after += [contrast.sentence for contrast in self.contrasts]
        after += [*(f"left out: {line}" for line in self.left_out)]
        after += [*(f"failed: {line}" for line in self.failed)]
        if any(cell.on_front for cell in self.cells):
            after.insert(0, "*: no file as small has less loss.")
        if self.files:
            after.append(f"written: {', '.join(self.files)}")
        titles = [*(["task"] if several else []), *columns]
        return TableView(titles, rows, after=after, droppable=["BD", "seeds"])

    def texts_view(self) -> TableView:
        """Returns the comparisons on texts as a table."""
        rows = [
            [
                *(cell.task, cell.trained_on, cell.label or "base"),
                f"{cell.method} {cell.setting}".strip() if cell.label else "alone",
                f"{cell.nll:.4f}",
                *("" if kl is None else f"{kl:.5f}" for kl in (cell.kl_base, cell.kl_trained)),
            ]
            for cell in self.cells
            if cell.text_tokens is not None
        ]
        columns = ["text", "trained on", "family", "stored as", "NLL", "KL base", "KL trained"]
        return TableView(columns, rows, droppable=["NLL"])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _cells(cell: Cell, several: bool) -> list[str]:
    task = cell.task if cell.trained_on in ("", cell.task) else f"{cell.trained_on} → {cell.task}"
    told = f"{cell.method} {cell.setting}".strip()
    return [
        *([task] if several else []),
        f"{cell.label} *" if cell.on_front else cell.label or "base",
        told if cell.label else "alone",
        "" if cell.bytes is None else f"{cell.bytes:,.0f}",
        f"{cell.nll:.4f}",
        "" if cell.nll_change is None else f"{100 * cell.nll_change:+.2f} %",
        "" if cell.bd_nll is None else f"{cell.bd_nll:+.4f}",
        "" if cell.accuracy is None else f"{100 * cell.accuracy:.1f} %",
        str(cell.seeds),
    ]


def summarize(rows: Sequence[Row]) -> list[Cell]:
    """Returns the means over seeds of all rows that were scored."""
    trained = {(r.label, r.trained_on, r.task, r.seed): r.nll for r in rows if r.kind == "trained"}
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.nll is not None:
            groups[row.trained_on, row.task, row.label, row.method, row.setting].append(row)
    return [_cell(found, trained) for found in groups.values()]


def _cell(
    rows: Sequence[Row], trained: dict[tuple[str, str, str, int | None], float | None]
) -> Cell:
    first = rows[0]
    changes = [
        row.nll / before - 1
        for row in rows
        if row.kind == "file"
        and row.nll
        and (before := trained.get((row.label, row.trained_on, row.task, row.seed)))
    ]
    accuracies = [row.accuracy for row in rows if row.accuracy is not None]
    sizes = [row.bytes for row in rows if row.bytes is not None]
    return Cell(
        label=first.label,
        method=first.method,
        setting=first.setting,
        trained_on=first.trained_on,
        task=first.task,
        seeds=len(rows),
        bytes=fmean(sizes) if sizes else None,
        shared_bytes=first.shared_bytes,
        nll=fmean(row.nll for row in rows if row.nll is not None),
        nll_change=fmean(changes) if changes else None,
        accuracy=fmean(accuracies) if accuracies else None,
        recall=fmean(row.recall or 0.0 for row in rows),
        text_tokens=first.text_tokens,
        kl_base=_mean(row.kl_base for row in rows),
        kl_trained=_mean(row.kl_trained for row in rows),
    )
