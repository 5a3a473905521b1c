"""The command line: one verb, one file, each imported only when it is used."""

from __future__ import annotations

import io
import itertools
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click

from kronq import __version__
from kronq.cli.command import verbosity
from kronq.cli.messages import error_json, error_line
from kronq.cli.output import note, plain_logs, show_error, stop_printing, warnings_as_notes
from kronq.cli.stopping import CTRL_C, Stopped, exit_on_signals, stopped_line
from kronq.cli.verbs import Verbs
from kronq.errors import KronqError, Names

VERBS = {
    "quantize": "Quantize a trained adapter and pack it into one file.",
    "inspect": "Show what an adapter or a packed file is.",
    "compare": "Compare adapters over bit widths, and at equal bytes.",
    "plan": "Count what adapters would cost on a model, before any is trained.",
    "train": "Train an adapter on your own text.",
    "study": "Train, quantize and score families of adapters on tasks.",
    "calibrate": "Run a base on your text, and show what layers see.",
    "convert": "Write an adapter as other programs load it.",
    "card": "Write an adapter's model card for the Hugging Face Hub.",
    "export": "Graft an adapter into an ONNX model.",
    "run": "Generate text with an exported model.",
    "chat": "Talk with a model, with and without its adapters.",
    "pool": "Keep thousands of adapters of one base in one file.",
    "serve": "Serve a model by OpenAI's protocol.",
    "web": "Serve a model and its adapters to a browser.",
    "bench": "Time a model with and without its adapter.",
    "score": "Score adapters on questions with known answers.",
    "basis": "Write frozen bases of LoRA-XS adapters once for all of them.",
    "base": "Build an ONNX base model from a Hugging Face folder or a GGUF file.",
}


@click.group(
    cls=Verbs,
    verbs=VERBS,
    package="kronq.cli",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'kronq VERB --help' has the options of each, with examples.",
)
@click.version_option(__version__, prog_name="kronq")
def cli() -> None:
    """Quantize, measure, pack and run Kron-LoRA (LoKr) and LoRA adapters."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line: exit code 0 done, 1 a limit missed, 2 something to mend.

    130 is Ctrl-C, and 128 plus its number another signal.
    """
    with exit_on_signals(), warnings_as_notes(), plain_logs():
        _run(args)


def _run(args: Sequence[str] | None) -> None:
    verbosity.set(0)
    given = sys.argv[1:] if args is None else args
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # a bad graph is one line, kronq's own
    _limit_threads(given)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal or pipe without Unicode
    try:
        sys.exit(cli.main(args=args, prog_name="kronq", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"{context.command_path} --help" if context else None
        _report(KronqError(error.format_message(), hint=hint), given)
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt) as stop:
        note(stopped_line(stop))
        sys.exit(CTRL_C)
    except Stopped as stop:
        note(stopped_line(stop))
        raise
    except KronqError as error:
        if verbosity.get() > 0:
            for line in "".join(traceback.format_exception(error)).splitlines():
                note(line)
            if isinstance(error.found, Names):
                note("\n".join(error.found.names))
        _report(error, given)
        sys.exit(2)
    except BrokenPipeError:  # kronq … | head
        stop_printing(sys.stdout, sys.stderr)
        sys.exit(0)
    except OSError as error:  # a full disk, a folder without permission
        _report(KronqError(str(error)), given)
        sys.exit(2)


def _report(error: KronqError, args: Sequence[str]) -> None:
    """Prints an error's line to stderr, and with ``--json`` all of it to stdout."""
    note(error_line(error))
    if "--json" in args:
        show_error(error_json(error))


def _limit_threads(args: Sequence[str]) -> None:
    """Sets the number of threads that ``--threads`` asks for, which numpy reads when it starts."""
    for option, value in itertools.pairwise([*args, ""]):
        name, _, given = option.partition("=")
        number = given or value
        if name == "--threads" and number.isdigit() and int(number) > 0:
            os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = number
