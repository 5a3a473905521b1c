"""``kronq study``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kronq.cli import shared
from kronq.cli.command import OUTPUT, Command, option

if TYPE_CHECKING:
    from kronq.report.comparison_models import Baseline
    from kronq.study.config import Study
    from kronq.study.published import Published
    from kronq.study.steps import Plan
    from kronq.study.store import Store

EXAMPLES = """\b
Examples:
  kronq study pilot.yaml -o pilot/ --data questions/ --dry-run
  kronq study pilot.yaml -o pilot/ --data questions/ --base SmolLM2/ --jobs 2
  kronq study mine.yaml -o mine/ --base SmolLM2/ --table pilot/table.parquet
"""


@click.command(
    "study",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Train, quantize and score families of adapters on tasks.",
)
@click.argument("config")
@click.option("-o", "--output", required=True, metavar="DIR", help="The study's folder.")
@click.option("--data", metavar="DIR", help="What paths of CONFIG begin in.  [default: its own]")
@click.option("--base", metavar="PATH", help="The base, a Hugging Face folder or a .gguf file.")
@click.option("--onnx", metavar="DIR", help="The base as 'kronq base' builds it.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="FILE",
    help="Take results that another study's table.parquet has. May be repeated.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    show_default=True,
    help="Processes, with one thread each.",
)
@option("--dry-run", is_flag=True, group=OUTPUT, help="Print what would be done, and its cost.")
@shared.json_option
def command(
    config: str,
    output: str,
    data: str | None,
    base: str | None,
    onnx: str | None,
    tables: tuple[str, ...],
    jobs: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train families of adapters on tasks, quantize them, score all of it, and compare.

    CONFIG is a YAML file: families × tasks × seeds × methods. DIR gets table.parquet with a row for
    each adapter and file, and the figures of each question; page.html; and everything that was
    made, under a digest of what it was made of. A study that was stopped, even by force, goes on
    where it was when the same command is given again, and one whose CONFIG grew makes what is new.
    An adapter that cannot be trained stops no other; the exit code is then 2.
    """
    shared.check_inputs(config, data, base, onnx, *tables)
    from kronq.study.config import read_study
    from kronq.study.published import Published
    from kronq.study.run import plan_study
    from kronq.study.sources import folder_for
    from kronq.study.store import Store

    study = read_study(config)
    given = {"base": base, "onnx": onnx}
    study = study.model_copy(update={k: str(Path(v).absolute()) for k, v in given.items() if v})
    folder, store = folder_for(config, data), Store(Path(output))
    published, baselines = Published.read(map(Path, tables)), _baselines(study)
    if not dry_run:
        store.open()
    plan = plan_study(study, folder, store, baselines)
    if dry_run:
        _show_plan(plan, store, published, as_json)
        return
    _run(plan, store, folder, baselines, published, jobs, as_json)


def _baselines(study: Study) -> Mapping[str, Baseline]:
    if not any(method.method == "baseline" for method in study.methods):
        return {}
    from kronq.cli.baselines import find_baselines

    return {baseline.name: baseline for baseline in find_baselines()}


def _show_plan(plan: Plan, store: Store, published: Published, as_json: bool) -> None:
    from kronq.study.dry_run import describe

    described = describe(plan, store, published)
    if as_json:
        shared.show_json(described)
    else:
        shared.show(described.view())


def _run(
    plan: Plan,
    store: Store,
    folder: Path,
    baselines: Mapping[str, Baseline],
    published: Published,
    jobs: int,
    as_json: bool,
) -> None:
    from kronq.study.results import write_results
    from kronq.study.run import Watch, run_plan
    from kronq.study.sources import build_base

    with shared.progress_bar("study") as progress:
        progress.step("the base", 0, len(plan.chains))
        build_base(plan.study, plan.base, folder, progress.step)
        watch = Watch(progress.step, progress)
        failed = run_plan(plan, store, baselines, published=published, jobs=jobs, watch=watch)
        progress.step("the table", len(plan.chains), len(plan.chains))
        report = write_results(plan, store, failed, published)
    if as_json:
        shared.show_json(report)
    else:
        shared.show(report.view())
    for line in failed:
        shared.note(f"kronq: error: {line}")
    if failed:
        click.get_current_context().exit(2)
