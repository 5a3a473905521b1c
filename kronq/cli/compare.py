"""``kronq compare``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from kronq.cli import shared
from kronq.cli.baselines import find_baselines
from kronq.cli.command import Command
from kronq.errors import KronqError
from kronq.io.extras import require
from kronq.io.files import check_output
from kronq.quantization.config_checks import FLOAT_BITS, WIDTHS

EXAMPLES = """\b
Examples:
  kronq compare my-lokr/
  kronq compare my-lokr/ my-lora/ --bits 8,4,3,2 --plot error.svg
  kronq compare my-lokr/ --method rtn --method balanced --json
  kronq compare my-lokr/ --method balanced --method compact --bits 4,2,1,0.5
  kronq compare my-lokr/ --baselines --plot error.svg
"""


@click.command(
    "compare",
    cls=Command,
    epilog=EXAMPLES,
    short_help="Compare adapters over bit widths, and at equal bytes.",
)
@click.argument("adapters", nargs=-1, required=True)
@click.option(
    "--bits",
    default="16,8,4,3,2",
    show_default=True,
    help="Widths, with commas between them. compact: any, as 2.5.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(["native", "balanced", "rtn", "compact"]),
    default=("balanced",),
    show_default=True,
    help="May be given more than once.",
)
@click.option("--baselines", is_flag=True, help="Other tools too, at the bytes of their files.")
@click.option("--plot", metavar="FILE.svg|png", help="Draw error against bytes.")
@shared.json_option
@shared.force_option
@shared.reading_options
def command(
    adapters: tuple[str, ...],
    bits: str,
    methods: tuple[Any, ...],
    baselines: bool,
    plot: str | None,
    as_json: bool,
    force: bool,
    **reading: Any,
) -> None:
    """Compare ADAPTERS over bit widths: parameters, bytes, error; and at equal bytes.

    Each is quantized as 'kronq quantize' would, and sized as the file that it would write. 'above
    bound' is how many bits per parameter that is more than an ideal code of Gaussian factors needs
    for the same error. The last column is the best that every other adapter gives in no more bytes.

    --baselines adds float16 as PEFT writes it, ranks cut short, Olive's int4, torchao's, HQQ's and
    LoRAQuant's codes, each with whole files as that tool would store them:
    docs/results/benchmarks.md says how. Those that are not installed are named on stderr.
    """
    widths = _parse_widths(bits, methods)
    shared.check_inputs(*adapters)
    if plot is not None:
        require("plot", "--plot")
    from kronq.report.comparison import compare
    from kronq.report.plot import check_picture_format, plot_comparison

    if plot is not None:
        check_picture_format(plot)
        check_output(plot, force=force)
    names = [Path(a).name or a for a in adapters]
    labels = names if len(set(names)) == len(names) else list(adapters)
    if len(set(labels)) != len(labels):
        raise KronqError("the same adapter is given twice", found=", ".join(labels))
    loaded = {
        label: shared.read(path, **reading) for label, path in zip(labels, adapters, strict=True)
    }
    tools = find_baselines() if baselines else ()
    with shared.progress_bar("comparing") as progress:
        comparison = compare(
            loaded,
            widths,
            methods=methods,
            baselines=tools,
            progress=progress,
        )
    if as_json:
        shared.show_json(comparison)
    else:
        shared.show(comparison.view())
    if plot is not None:
        plot_comparison(comparison, plot, force=force)
        if not as_json:
            shared.show(f"wrote {plot}")


def _parse_widths(text: str, methods: tuple[Any, ...]) -> list[int | float]:
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
