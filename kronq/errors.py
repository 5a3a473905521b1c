"""The one family of errors a user can cause.

Every error is one line: what went wrong, where (file, layer), what was found, what was expected and
a hint. The command line prints it to stderr and exits with code 2; nothing is half-written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

StrPath = str | os.PathLike[str]


class KronqError(Exception):
    """Something the user can mend.

    Args:
        message: What is wrong, in one sentence.
        path: The file or folder it is about.
        layer: The adapted layer it is about.
        found: What was found there.
        expected: What would have been right.
        hint: What to try.
    """

    def __init__(
        self,
        message: str,
        *,
        path: StrPath | None = None,
        layer: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.path = path
        self.layer = layer
        self.found = found
        self.expected = expected
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        where = "".join(f"{part}: " for part in (self.path, self.layer) if part is not None)
        text = f"{where}{self.message}"
        if self.found is not None:
            text += f"; found {self.found}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.hint is not None:
            text += f" (hint: {self.hint})"
        return printable(" ".join(text.split()))


class FormatError(KronqError):
    """A file that is damaged, incomplete or not what its name says."""


class UnsupportedError(KronqError):
    """A well-formed thing that kronq does not handle."""


class MismatchError(KronqError):
    """An adapter and a base that do not belong together."""


class OutputExistsError(KronqError):
    """An output that is already there and would have been overwritten."""


class MissingDependencyError(KronqError):
    """An optional package that the request needs and that is not installed."""


def printable(text: str) -> str:
    """The text with control characters escaped: no file's names may steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def listing(names: Iterable[str]) -> str:
    """All names, in order, on one line: nothing is ever cut from an error."""
    return ", ".join(sorted(names))
