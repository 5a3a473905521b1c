"""Results that other studies' tables have already, by the keys of what they depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kronq.study.row import Row
from kronq.study.steps import Chain, FileStep, Plan, ScoreStep, TextStep
from kronq.study.table_file import read_table


@dataclass(frozen=True)
class Published:
    """Rows of other studies' tables.

    Attributes:
        rows: Key of a score or a comparison of texts → its row.
    """

    rows: Mapping[str, Row] = field(default_factory=dict)

    @classmethod
    def read(cls, tables: Iterable[Path]) -> Published:
        """Reads tables; of two rows with one key the later table's counts.

        Raises:
            NotFoundError: A table does not exist.
            FormatError: One is no table of a study.
        """
        rows = {}
        for table in tables:
            for row in read_table(table):
                taken = row.taken_from or "/".join(table.parts[-2:])
                rows[row.key] = replace(row, path="", taken_from=taken)
        return cls(rows)

    def row(self, chain: Chain, step: ScoreStep | TextStep) -> Row | None:
        """Returns the row of a result, under the labels that this study has; None if it is new."""
        row = self.rows.get(step.key)
        if row is None:
            return None
        task = step.task if isinstance(step, ScoreStep) else step.text
        return replace(row, label=chain.family, trained_on=chain.trained_on, task=task)


@dataclass(frozen=True)
class Needs:
    """What of a plan has to be made, beside what is published.

    Attributes:
        published: Keys of results that are published.
        starts: Keys of adapters and files that a training which is not published goes on from.
    """

    published: frozenset[str] = frozenset()
    starts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, plan: Plan, published: Published) -> Needs:
        """Returns what a plan needs."""
        known = cls(frozenset(published.rows))
        later = [chain for chain in plan.chains if chain.start is not None and known.chain(chain)]
        return replace(known, starts=frozenset(c.start.key for c in later if c.start is not None))

    def result(self, step: ScoreStep | TextStep) -> bool:
        """Returns whether a result is needed."""
        return step.key not in self.published

    def file(self, chain: Chain, file: FileStep) -> bool:
        """Returns whether a file of a chain is."""
        results = [step for step in chain.results if step.source == file.key]
        return file.key in self.starts or any(map(self.result, results))

    def chain(self, chain: Chain) -> bool:
        """Returns whether anything of a chain is."""
        keys = {chain.key, *(file.key for file in chain.files)}
        return not keys.isdisjoint(self.starts) or any(map(self.result, chain.results))
