"""What ``kronq study --dry-run`` prints."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from kronq.report.display.displayed import Displayed
from kronq.report.display.table_view import TableView
from kronq.study.cost import estimate
from kronq.study.published import Published
from kronq.study.steps import Plan
from kronq.study.store import Store


class Work(BaseModel):
    """One kind of work."""

    model_config = ConfigDict(frozen=True)

    kind: str
    done: int = Field(description="Things that are done.")
    left: int = Field(description="Things that are not.")
    cpu_hours_left: float = Field(description="Of one thread, about.")


class PlannedStudy(Displayed):
    """What a study would do."""

    schema_version: int = 1
    name: str
    adapters: list[str] = Field(description="All that are trained.")
    work: list[Work]
    cpu_hours_left: float

    def view(self) -> TableView:
        """Returns the plan as a table."""
        rows = [
            [w.kind, f"{w.done:,}", f"{w.left:,}", f"{w.cpu_hours_left:.2f}"] for w in self.work
        ]
        total = f"{self.cpu_hours_left:.1f} CPU-hours are left, about, of one thread."
        return TableView(
            ["item", "done", "left", "CPU-hours"],
            rows,
            before=[f"{self.name}: {len(self.adapters)} adapters", *self.adapters],
            after=[total],
        )


def describe(plan: Plan, store: Store, published: Published) -> PlannedStudy:
    """Describes what a study would do, and how long it would take."""
    work = [
        Work(kind=c.kind, done=c.done, left=c.left, cpu_hours_left=c.seconds_left / 3600)
        for c in estimate(plan, store, published)
    ]
    return PlannedStudy(
        name=plan.study.name,
        adapters=[chain.name for chain in plan.chains if chain.family],
        work=work,
        cpu_hours_left=sum(w.cpu_hours_left for w in work),
    )
