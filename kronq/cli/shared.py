"""Options, reading, printing and progress of more than one verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kronq.cli.command import OUTPUT, option, verbosity
from kronq.cli.output import inform as inform
from kronq.cli.output import json_text as json_text
from kronq.cli.output import note as note
from kronq.cli.output import show as show
from kronq.cli.output import show_json as show_json
from kronq.cli.output import stream_text as stream_text
from kronq.cli.progress import progress_bar as progress_bar
from kronq.errors import KronqError
from kronq.io.input_path import check_input
from kronq.onnx.providers import DEVICES, ExecutionOptions, parse_provider_options
from kronq.readers import FORMATS
from kronq.readers.scale_rule import SCALE_RULES

if TYPE_CHECKING:
    from kronq.model.adapter import Adapter

F = TypeVar("F", bound=Callable[..., Any])
INPUT = "Input"
_READING = (
    *("format_", "scale_rule", "alpha", "only", "conv_kernel", "base_weights", "initial"),
    *("basis", "verify", "other_base"),
)
_SHOWN = 4
"""Kinds of layers that a note names."""

json_option = option(
    "--json", "as_json", is_flag=True, group=OUTPUT, help="Print JSON alone on stdout."
)
force_option = option(
    "--force", is_flag=True, group=OUTPUT, help="Overwrite an output that exists."
)
threads_option = option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    rare=True,
    group=OUTPUT,
    expose_value=False,
    help="Threads of numpy and of the trellis search; one a core if not given.",
)
"""Read by ``kronq.cli.main`` before numpy is imported."""

basis_option = option(
    "--basis",
    group=INPUT,
    rare=True,
    metavar="PATH",
    help="Frozen bases of LoRA-XS's R alone: a file of 'kronq basis', the LoRA-XS folder, "
    "or the base as a Hugging Face folder.",
)

adapter_option = click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="[NAME=]PATH",
    help="An adapter for a model with slots: packed, a PEFT folder or an .onnx_adapter.",
)


def named_adapters(given: Sequence[str]) -> dict[str, str]:
    """``NAME=PATH`` or ``PATH``, whose name is then the file's without its ending.

    Raises:
        KronqError: Two have one name.
    """
    found: dict[str, str] = {}
    for text in given:
        given_name, path = split_name(text)
        name = Path(path).resolve().stem if given_name is None else given_name
        if name in found:
            raise same_name(name)
        found[name] = path
    return found


def split_name(text: str) -> tuple[str | None, str]:
    """Splits ``NAME=PATH``; the name is None where only a path is given."""
    name, separator, path = text.partition("=")
    if not separator or "/" in name or Path(text).exists():
        return None, text
    return name, path


def same_name(name: str) -> KronqError:
    """Returns the error of two adapters that would have one name."""
    return KronqError("two adapters of one name", found=name, hint="--adapter NAME=PATH")


def reading_options(command: F) -> F:
    """What an adapter is read with, ``--no-verify`` and ``--other-base`` among it."""
    return other_base_option(_no_verify_option(header_options(command)))


other_base_option = option(
    "--other-base",
    is_flag=True,
    group=INPUT,
    rare=True,
    help="Take the base though the adapter was calibrated or tested with another one.",
)
_no_verify_option = option(
    "--no-verify",
    "verify",
    flag_value=False,
    default=True,
    group=INPUT,
    rare=True,
    help="Read a packed file whose checksum is of other contents, too.",
)


def header_options(command: F) -> F:
    """``--only``, ``--format`` and what replaces values of a file, where an adapter is read."""
    for add in (
        option(
            "--conv-kernel",
            group=INPUT,
            rare=True,
            multiple=True,
            metavar="REGEX=3x3",
            help="Kernel of the convolutions in whose names REGEX is found, where nothing in the "
            "file tells it; 1 for linear layers.",
        ),
        basis_option,
        option(
            "--initial",
            group=INPUT,
            rare=True,
            metavar="DIR",
            help="The adapter before training, to subtract: PiSSA, OLoRA, CorDA, LoRA-GA.",
        ),
        option(
            "--base-weights",
            group=INPUT,
            rare=True,
            metavar="DIR",
            help="The base's Hugging Face folder, where the adapter alone does not tell ΔW.",
        ),
        option(
            "--only",
            group=INPUT,
            rare=True,
            metavar="REGEX",
            help="A part of the adapter: the layers in whose names REGEX is found.",
        ),
        option("--alpha", type=float, group=INPUT, rare=True, help="α, instead of the stored one."),
        option(
            "--scale-rule",
            group=INPUT,
            rare=True,
            type=click.Choice(SCALE_RULES),
            help="How α becomes a scale, instead of the source's own rule.",
        ),
        option(
            "--format",
            "format_",
            group=INPUT,
            rare=True,
            type=click.Choice(FORMATS),
            help="The adapter's format, instead of finding it out.",
        ),
    ):
        command = add(command)
    return command


def execution_options(command: F) -> F:
    """Adds ``--device``, ``--provider``, ``--provider-option`` and ``--threads``."""
    for add in (
        click.option("--threads", type=int, metavar="N", help="Threads; one a core if not given."),
        click.option(
            "--provider-option",
            "provider_option",
            multiple=True,
            metavar="KEY=VALUE",
            help="An option of the provider's own; may be given again.",
        ),
        click.option(
            "--provider",
            metavar="NAME",
            help="Instead of a device, any provider of the installed onnxruntime: openvino, dml…",
        ),
        click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True),
    ):
        command = add(command)
    return command


def pop_execution(options: dict[str, Any]) -> ExecutionOptions:
    """Takes a command's execution options out of all its options, as ``Session`` takes them."""
    return {
        "device": options.pop("device"),
        "provider": options.pop("provider"),
        "provider_options": parse_provider_options(options.pop("provider_option")),
        "threads": options.pop("threads"),
    }


def check_inputs(*paths: str | None) -> None:
    """Refuses inputs that do not exist, before anything that reads them is imported."""
    for path in paths:
        if path is not None:
            check_input(path)


def read(
    path: str,
    *,
    format_: str | None,
    only: str | None,
    conv_kernel: Sequence[str] = (),
    **others: Any,
) -> Adapter:
    """The adapter that the reading options describe; says what ``--only`` leaves out."""
    from kronq.model.part import take_part
    from kronq.readers.load import load
    from kronq.readers.options import parse_conv_kernels

    kernels = parse_conv_kernels(conv_kernel)
    adapter = load(path, format=format_, conv_kernel=kernels or None, **others)
    if only is None:
        return adapter
    part = take_part(adapter, only)
    _note_left_out([name for name in adapter if name not in part], len(adapter), path)
    return part


def _note_left_out(names: Sequence[str], layers: int, path: str) -> None:
    from kronq.model.layer_names import compress_names

    if names and verbosity.get() >= 0:
        kinds = compress_names(names)
        more = [f"and {len(kinds) - _SHOWN} more kinds"] * (len(kinds) > _SHOWN)
        note(
            f"kronq: note: --only leaves out {len(names):,} of {layers:,} layers of {path}: "
            + ", ".join([*kinds[:_SHOWN], *more])
        )


def reading(options: Mapping[str, Any]) -> dict[str, Any]:
    """The reading options among others."""
    return {name: options[name] for name in _READING}
