"""Comparison of adapters by a task: absolute quality of files of every size, and who is ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import ArgumentError, KronqError, StrPath, printable
from kronq.evaluate.cache import Scorer, TaskCache
from kronq.evaluate.intervals import relative_change
from kronq.evaluate.metrics import task_metrics
from kronq.evaluate.score import ExampleScore, nll_per_token
from kronq.evaluate.task_model import TaskModel
from kronq.io.cache import cache_folder
from kronq.io.examples import Example, read_examples
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter
from kronq.packed import packed_size
from kronq.report.comparison_settings import METHODS, make_files, plan_files
from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView
from kronq.report.display.task_view import BASE, TRAINED
from kronq.report.equal_bytes import Entry, contests
from kronq.report.task import Interval, TaskMetrics

_SEED = 0


class TaskComparisonRow(BaseModel):
    """One file, an adapter as trained, or the base alone."""

    model_config = ConfigDict(frozen=True)

    adapter: str | None = Field(description="null for the base alone.")
    method: str
    bits: float | None = Field(description="Bits per weight that were asked for.")
    bytes: int | None = Field(description="Of the whole file.")
    metrics: TaskMetrics


class TaskContest(BaseModel):
    """Two best at one size, of the adapters, or of one adapter's methods."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    first: str = Field(description="Who has the lower NLL.")
    second: str
    nll: tuple[float, float] = Field(description="NLL per token of both.")
    change: Interval = Field(description="NLL of the first against the second's, relative, paired.")

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.change.high < 0


class TaskComparison(Displayed):
    """Quality of every file on the same examples, and who is ahead at equal bytes.

    ``str(comparison)`` is a table; notebooks show it as one.
    """

    data: str | None
    examples: int
    rows: list[TaskComparisonRow]
    contests: list[TaskContest] = Field(description="From the largest size to the smallest.")
    left_out: list[str] = Field(description="Files that cannot be as small as was asked, and why.")

    def view(self) -> TableView:
        """Returns the comparison as a table."""
        columns = ["adapter", "method", "bits", "bytes", "NLL/token", "accuracy %", "recall %"]
        rows = [
            [
                row.adapter or BASE,
                row.method,
                "–" if row.bits is None else f"{row.bits:g}",
                "–" if row.bytes is None else f"{row.bytes:,}",
                f"{row.metrics.nll_per_token:.4f}",
                _percent(row.metrics.accuracy),
                _percent(row.metrics.recall),
            ]
            for row in self.rows
        ]
        source = f" of {self.data}" if self.data else ""
        before = [f"{self.examples:,} examples{source}; compact codes are unbiased"]
        return TableView(columns, rows, before, [*self.left_out, *map(_line, self.contests)])

    def __repr__(self) -> str:
        return printable(f"TaskComparison({len(self.rows)} rows, {self.examples} examples)")


def compare_on_task(
    adapters: Mapping[str, Adapter],
    base: StrPath | TaskModel,
    tasks: StrPath | Sequence[Example],
    bits: Sequence[float] = (4, 2, 1),
    *,
    sizes: Sequence[int | str] = (),
    methods: Sequence[str] = METHODS,
    cache: StrPath | None = None,
    progress: Progress | None = None,
    on_file: Callable[[str, int, int], None] | None = None,
) -> TaskComparison:
    """Scores every adapter on a task: as trained, and as files of several sizes.

    Args:
        adapters: Label → adapter.
        base: Folder of the ONNX base model, or the loaded model.
        tasks: File of examples (``read_examples``), or the examples.
        bits: Widths, as ``compare`` takes them.
        sizes: Sizes of whole files, as ``compare`` takes them.
        methods: Methods, as ``compare`` takes them; ``compact`` codes are unbiased.
        cache: Cache of scores; None for the user's own ($KRONQ_CACHE).
        progress: Called with (texts done, texts in all) while one file is scored.
        on_file: Called with what is scored next, and (files done, files in all).

    Raises:
        KronqError: An adapter does not belong to the base; and as ``compare`` does.

    Example:
        >>> adapters = {"lokr": kronq.load("my-lokr"), "lora": kronq.load("my-lora")}
        >>> print(kronq.compare_on_task(adapters, "base", "questions.jsonl", (2, 1)))
    """
    settings = plan_files(adapters, bits, sizes, methods, refit="unbiased")
    data = Path(tasks).name if isinstance(tasks, str | PathLike) else None
    examples = read_examples(tasks) if isinstance(tasks, str | PathLike) else list(tasks)
    model = base if isinstance(base, TaskModel) else TaskModel(base)
    judge = _Judge(
        Scorer(model, TaskCache(cache_folder("tasks", cache)), progress),
        examples,
        on_file or (lambda *_: None),
        1 + len(adapters) + len(settings),
    )
    judge.add(None, BASE, None, None, None)
    left_out, failed = [], None
    for label, adapter in adapters.items():
        nbytes = adapter.origin.file_bytes or adapter.nbytes
        judge.add(label, TRAINED, None, nbytes, adapter)
        for setting, made in make_files(
            adapters, [setting for setting in settings if setting.adapter == label]
        ):
            if isinstance(made, ArgumentError):
                left_out.append(f"{label}, {setting.method}: {made}")
                failed = made
            else:
                given = setting.given(adapter.parameters)
                size = packed_size(made)
                judge.add(label, setting.method, setting.bits, size, made, given)
    if isinstance(failed, KronqError) and len(left_out) == len(settings):
        raise failed
    return TaskComparison(
        data=data,
        examples=len(examples),
        rows=judge.rows,
        contests=judge.contests(),
        left_out=left_out,
    )


class _Judge:
    """Rows so far, with the scores behind them."""

    def __init__(
        self,
        score: Scorer,
        examples: Sequence[Example],
        on_file: Callable[[str, int, int], None],
        count: int,
    ) -> None:
        self.rows: list[TaskComparisonRow] = []
        self._scores: list[list[ExampleScore]] = []
        self._sizes: list[int | None] = []
        self._score = score
        self._examples = examples
        self._on_file = on_file
        self._count = count

    def add(
        self,
        label: str | None,
        method: str,
        bits: float | None,
        nbytes: int | None,
        adapter: Adapter | None,
        given: int | None = None,
    ) -> None:
        """Scores a file, which may have been given a size."""
        self._on_file(f"{label or 'base'}, {method}", len(self.rows), self._count)
        self._sizes.append(nbytes if given is None else given)
        choices = any(len(example.choices) > 1 for example in self._examples)
        scores = self._score(adapter, self._examples, choices=choices)
        self._scores.append(scores)
        self.rows.append(
            TaskComparisonRow(
                adapter=label, method=method, bits=bits, bytes=nbytes, metrics=task_metrics(scores)
            )
        )

    def contests(self) -> list[TaskContest]:
        """Returns the two best at every size that several have, from the largest on."""
        by_adapter = len({row.adapter for row in self.rows if row.adapter is not None}) > 1
        entries = [
            Entry(
                (row.adapter or "") if by_adapter else row.method,
                size,
                row.metrics.nll_per_token,
                index,
            )
            for index, (row, size) in enumerate(zip(self.rows, self._sizes, strict=True))
            if size is not None and row.method not in (TRAINED, "fp16")
        ]
        return [
            self._contest(contest.nbytes, *contest.ranked[:2])
            for contest in reversed(contests(entries))
        ]

    def _contest(self, nbytes: int, first: Entry, second: Entry) -> TaskContest:
        ours, theirs = self._scores[first.row], self._scores[second.row]
        return TaskContest(
            bytes=nbytes,
            first=first.contestant,
            second=second.contestant,
            nll=(nll_per_token(ours), nll_per_token(theirs)),
            change=relative_change([s.nll for s in ours], [s.nll for s in theirs], _SEED),
        )


def _line(contest: TaskContest) -> str:
    """Returns the line that names the winner at one size."""
    first, second = contest.nll
    change = contest.change
    interval = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
    if not contest.differs:
        return (
            f"at {contest.bytes:,} bytes no difference seen: {contest.first} {first:.4f}, "
            f"{contest.second} {second:.4f} ({100 * change.value:+.1f} %, {interval})"
        )
    return (
        f"at {contest.bytes:,} bytes {contest.first} wins: NLL {first:.4f} against {second:.4f} of "
        f"{contest.second}, {100 * change.value:+.1f} % ({interval})"
    )


def _percent(share: Interval | None) -> str:
    return "–" if share is None else f"{100 * share.value:.1f}"
