"""Printing: fitted to a terminal's width, whole in a pipe, and quiet where nobody reads on."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from kronq.cli.command import verbosity
from kronq.errors import KronqWarning, printable, printable_json
from kronq.fitting import wrap

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kronq.report.display.table_view import TableView

_NARROWEST = 20
"""Columns below which a width is taken to be unknown."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters that no text needs."""


def terminal_width(stream: TextIO) -> int | None:
    """Returns the columns of the terminal that a stream goes to; None for a pipe or a file."""
    if not stream.isatty():
        return None
    try:
        columns = (
            int(os.environ.get("COLUMNS", "")) or os.get_terminal_size(stream.fileno()).columns
        )
    except (OSError, ValueError):
        columns = shutil.get_terminal_size().columns
    return columns if columns >= _NARROWEST else None


def show(*parts: str | TableView) -> None:
    """Prints lines and tables to stdout, unless ``-q`` is given."""
    if verbosity.get() < 0:
        return
    width = terminal_width(sys.stdout)
    for part in parts:
        if isinstance(part, str):
            _print("\n".join(wrap(printable(part), width)))
        else:
            _print(part.text(width, _bold))


def show_json(model: BaseModel) -> None:
    """Prints a model as JSON, alone on stdout."""
    _print(json_text(model))


def show_error(text: str) -> None:
    """Prints an error's JSON, alone on stdout."""
    _print(text)


def json_text(model: BaseModel) -> str:
    """Returns a model as JSON; names of files that are no UTF-8 are escaped."""
    try:
        return printable_json(model.model_dump_json(indent=2))
    except ValueError:  # pydantic's, of a text that UTF-8 cannot write
        return json.dumps(_writable(model.model_dump(mode="json")), indent=2)


def _writable(value: Any) -> Any:
    """Returns a value of JSON with what UTF-8 cannot write escaped in its texts."""
    if isinstance(value, dict):
        return {name: _writable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_writable(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return printable(value) if isinstance(value, str) else value


def note(line: str) -> None:
    """Prints a line to stderr, even with ``-q``."""
    _print("\n".join(wrap(printable(line), terminal_width(sys.stderr))), err=True)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Makes each of kronq's warnings one line on stderr, unless ``-q`` is given."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, KronqWarning):
                show(message, category, filename, lineno, file, line)
            elif verbosity.get() >= 0:
                note(f"kronq: note: {message}")

        warnings.simplefilter("once", KronqWarning)
        warnings.showwarning = show_note
        yield


@contextmanager
def plain_logs() -> Iterator[None]:
    """Escapes control characters in what libraries log, of which a part is names from files."""

    def plain_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        text = record.getMessage()
        record.msg, record.args = "\n".join(map(printable, text.split("\n"))), ()
        return record

    make = logging.getLogRecordFactory()
    logging.setLogRecordFactory(plain_record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)


def inform(line: str) -> None:
    """Prints a line to stderr, unless ``-q`` is given."""
    if verbosity.get() >= 0:
        note(line)


def stream_text(piece: str) -> None:
    """Prints a piece of a model's text; on a terminal control characters are escaped."""
    if sys.stdout.isatty():
        piece = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], piece)
    sys.stdout.write(piece)
    sys.stdout.flush()


def stop_printing(*streams: TextIO) -> None:
    """Sends what is still to be printed nowhere: the reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in streams:
            os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # a stream without a file, as in tests
        pass
    finally:
        os.close(nowhere)


def _print(text: str, *, err: bool = False) -> None:
    """Prints a text; that nobody reads it (``| head``) does not end the work."""
    stream = sys.stderr if err else sys.stdout
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        stop_printing(stream)


def _bold(line: str) -> str:
    plain = os.name == "nt" or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"
    return line if plain else click.style(line, bold=True)
