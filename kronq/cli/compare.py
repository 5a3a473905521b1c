"""``kronq compare``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.baselines import find_baselines
from kronq.cli.command import Command, option
from kronq.errors import KronqError
from kronq.io.extras import require
from kronq.io.files import check_output
from kronq.quantization.config_checks import FLOAT_BITS, WIDTHS

if TYPE_CHECKING:
    from kronq.evaluate.task_comparison import TaskComparison
    from kronq.model.adapter import Adapter
    from kronq.report.comparison_models import Comparison

EXAMPLES = """\b
Examples:
  kronq compare my-lokr/
  kronq compare my-lokr/ my-lora/ --bits 8,4,3,2 --plot error.svg
  kronq compare my-lokr/ my-lora/ --size 77KB,150KB \\
      --tasks q.jsonl --base base/
  kronq compare my-lokr/ --method rtn --method balanced --json
  kronq compare my-lokr/ --baselines --plot error.svg --dark
"""
TASK = "Your task"
METHODS = ("native", "compact", "balanced", "rtn")


@click.command(
    "compare",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Compare adapters over bit widths, and at equal bytes.",
)
@click.argument("adapters", nargs=-1, required=True)
@click.option(
    "--bits",
    metavar="N,N,…",
    help="Widths; for compact any, as 2.5.  [default: 8,4,2; with --tasks 4,2,1]",
)
@click.option("--size", "sizes", metavar="SIZE,…", help="Instead, sizes of whole files: 150KB.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(METHODS),
    default=METHODS[:2],
    help="May be given more than once.  [default: native and compact]",
)
@click.option("--baselines", is_flag=True, help="Other tools too, at the bytes of their files.")
@click.option("--plot", metavar="FILE.svg|png", help="Draw error against bytes.")
@click.option("--dark", is_flag=True, help="Draw on a dark page.")
@option("--tasks", metavar="FILE.jsonl", group=TASK, help="Compare by these questions instead.")
@option("--base", metavar="DIR", group=TASK, help="Folder of the base model.")
@option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    group=TASK,
    help="Only the first N questions.",
)
@shared.json_option
@shared.force_option
@shared.reading_options
def command(
    adapters: tuple[str, ...],
    bits: str | None,
    sizes: str | None,
    methods: tuple[Any, ...],
    as_json: bool,
    **others: Any,
) -> None:
    """Compare ADAPTERS over bit widths and at equal bytes, and name the winner.

    Each is quantized as 'kronq quantize' would, and sized as the file that it would write. Bits of
    compact files are those of the adapter with fewest weights; the others get as many bytes.
    'above bound' is how many bits per parameter that is more than an ideal code of Gaussian factors
    needs for the same error.

    --tasks scores every file on your questions instead: NLL, accuracy and recall, and who is ahead
    at equal bytes, with a paired 95 % interval.

    --baselines adds float16 as PEFT writes it, ranks cut short, Olive's int4, torchao's, HQQ's and
    LoRAQuant's codes, each with whole files as that tool would store them:
    docs/results/benchmarks.md says how. Those that are not installed are named on stderr.
    """
    on_task = _check_options(others)
    files = {"bits": _parse_widths(bits, methods), "methods": methods}
    if bits is None:
        files["bits"] = () if sizes else (4, 2, 1) if on_task else (8, 4, 2)
        files["bits"] = [w for w in files["bits"] if "compact" in methods or w in WIDTHS]
    files["sizes"] = sizes.split(",") if sizes else ()
    shared.check_inputs(*adapters, others["base"], others["tasks"])
    reading = shared.reading(others)
    loaded = {label: shared.read(path, **reading) for label, path in _labels(adapters).items()}
    if on_task:
        _show(_compare_on_task(loaded, files, others), as_json)
        return
    comparison = _compare(loaded, files, others)
    _show(comparison, as_json)
    if others["plot"] is not None:
        from kronq.report.plot import plot_comparison

        plot_comparison(comparison, others["plot"], dark=others["dark"], force=others["force"])
        if not as_json:
            shared.show(f"wrote {others['plot']}")


def _show(comparison: Comparison | TaskComparison, as_json: bool) -> None:
    if as_json:
        shared.show_json(comparison)
    else:
        shared.show(comparison.view())


def _check_options(options: Mapping[str, Any]) -> bool:
    """Checks options that go together, and what they need; returns whether a task is scored.

    Raises:
        UsageError: Options do not go together.
        KronqError: A package is missing, or the picture's name is wrong or taken.
    """
    plot, tasks = options["plot"], options["tasks"]
    if options["dark"] and plot is None:
        raise click.UsageError("--dark is for --plot")
    if tasks is None:
        for name in ("base", "limit"):
            if options[name] is not None:
                raise click.UsageError(f"--{name} needs --tasks")
    elif options["base"] is None:
        raise click.UsageError("--tasks needs --base")
    elif plot is not None or options["baselines"]:
        raise click.UsageError("--plot and --baselines are for the error of ΔW: without --tasks")
    else:
        require("genai", "--tasks")
    if plot is not None:
        require("plot", "--plot")
        from kronq.report.picture import check_picture_format

        check_picture_format(plot)
        check_output(plot, force=options["force"])
    return tasks is not None


def _labels(adapters: Sequence[str]) -> dict[str, str]:
    """Returns the adapters' paths by their names; by the whole paths where names are equal.

    Raises:
        KronqError: A path is given twice.
    """
    names = [Path(a).name or a for a in adapters]
    labels = names if len(set(names)) == len(names) else list(adapters)
    if len(set(labels)) != len(labels):
        raise KronqError("the same adapter is given twice", found=", ".join(labels))
    return dict(zip(labels, adapters, strict=True))


def _compare(
    adapters: Mapping[str, Adapter], files: dict[str, Any], options: Mapping[str, Any]
) -> Comparison:
    from kronq.report.comparison import compare

    tools = find_baselines() if options["baselines"] else ()
    with shared.progress_bar("comparing", "files") as progress:
        return compare(adapters, **files, baselines=tools, progress=progress)


def _compare_on_task(
    adapters: Mapping[str, Adapter], files: dict[str, Any], options: Mapping[str, Any]
) -> TaskComparison:
    from kronq.evaluate.task_comparison import compare_on_task
    from kronq.io.examples import read_examples

    examples = read_examples(options["tasks"])[: options["limit"]]
    with shared.progress_bar("scoring", "texts") as work:
        found = compare_on_task(
            adapters, options["base"], examples, **files, progress=work, on_file=work.step
        )
    return found.model_copy(update={"data": Path(options["tasks"]).name})


def _parse_widths(text: str | None, methods: tuple[Any, ...]) -> list[int | float]:
    if text is None:
        return []
    try:
        widths = [float(part) for part in text.split(",")]
    except ValueError:
        widths = []
    wrong = any(
        not 0 < width < math.inf if "compact" in methods else width not in (FLOAT_BITS, *WIDTHS)
        for width in widths
    )
    if not widths or wrong:
        expected = f"some of {(FLOAT_BITS, *WIDTHS)}, or for compact any above 0"
        raise KronqError("bad --bits", found=repr(text), expected=expected)
    return list(dict.fromkeys(int(width) if width.is_integer() else width for width in widths))
