"""Running the command line in a pseudo-terminal of a given width, and reading what it shows."""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from kronq.cli import main
from kronq.fitting import cells

_STEP = re.compile(r"\x1b\[\??(\d*)[0-9;]*([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


@dataclass(frozen=True)
class Shown:
    """What a command has shown in the terminal.

    Attributes:
        code: Its exit code.
        text: The lines that are on the screen in the end.
        widest: The widest line that was ever on it.
    """

    code: int
    text: str
    widest: str


def show(written: str) -> tuple[list[str], str]:
    """Follows a terminal: new lines, a line drawn again, the cursor up, a line cleared.

    Returns:
        The lines in the end, and the widest line at any time.
    """
    lines, row, column, widest = [""], 0, 0, ""
    for number, letter, back, down, text in _STEP.findall(written):
        if letter == "A":
            row -= int(number or 1)
        elif letter == "K":
            lines[row] = ""
        elif back:
            column = 0
        elif down:
            row, column = row + 1, 0
            lines += [""] if row == len(lines) else []
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
            widest = max(widest, lines[row], key=cells)
    return lines, widest


class Screen:
    """``screen("inspect", path)``: runs ``kronq`` in a terminal of so many columns.

    Args:
        monkeypatch: Sets the environment of a terminal.
        columns: Width of the terminal.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> None:
        self._monkeypatch = monkeypatch
        self.columns = columns

    def __call__(self, *args: object) -> Shown:
        with self._terminal() as pieces, pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        code = stop.value.code
        assert code is None or isinstance(code, int)
        lines, widest = show(b"".join(pieces).decode())
        return Shown(code or 0, "\n".join(lines), widest)

    @contextmanager
    def _terminal(self) -> Iterator[list[bytes]]:
        fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self.columns, 0, 0))
        pieces: list[bytes] = []
        reader = threading.Thread(target=_read_all, args=(master, pieces))
        reader.start()
        with self._monkeypatch.context() as patch, os.fdopen(slave, "w", encoding="utf-8") as tty:
            patch.delenv("COLUMNS", raising=False)
            patch.setenv("TERM", "xterm-256color")
            patch.setattr(sys, "stdout", tty)
            patch.setattr(sys, "stderr", tty)
            yield pieces
        reader.join()
        os.close(master)


def _read_all(master: int, pieces: list[bytes]) -> None:
    """Reads until the other end is closed."""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017
            return
        if not piece:
            return
        pieces.append(piece)
