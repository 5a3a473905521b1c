"""Errors that a user can cause, one family.

Every error is one line: the file or layer, what is wrong, what was found, what was expected and a
hint. The command line prints it to stderr and exits with code 2; no output is half-written. Each
subclass is also the built-in exception that Python programs catch, such as ``FileNotFoundError``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from kronq.error_codes import CODES

StrPath = str | os.PathLike[str]

_PARAMETER = re.compile(r"\{([a-z]\w*)(?:=([^{}]*))?\}")


_LONGEST_PART = 300
"""Characters of one part of an error's line; ``error.found`` has all."""
_LONGEST_TEXT = 1000
"""Characters of the path and of the message."""
_EXAMPLES = 3
"""Names of several that an error shows."""


class KronqError(Exception):
    """An error that the user can correct.

    Args:
        message: What is wrong, in one sentence.
        path: The file or folder it is about.
        layer: The adapted layer it is about.
        found: What was found there.
        expected: What would have been right.
        hint: What to try. ``{force}`` names a parameter and ``{form=branch}`` a parameter's value:
            ``str`` shows them as Python has them (``force``, ``form="branch"``), the command line
            as options (``--force``, ``--form branch``).
        code: One of ``CODES``, where it is finer than the class's own.

    Attributes:
        code: Tells programs what is wrong; it never changes.
    """

    code: str = "error"

    def __init__(
        self,
        message: str,
        *,
        path: StrPath | None = None,
        layer: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)  # first: ImportError clears its path
        self.message = message
        self.path = path
        self.layer = layer
        self.found = found
        self.expected = expected
        self.hint = hint
        if code is not None:
            assert code in CODES, code  # noqa: S101
            self.code = code
        self.args = (str(self),)

    def __reduce__(self) -> tuple[Any, ...]:
        # Of all its parts, so that an error of another process is the same here.
        parts = {name: getattr(self, name) for name in ("path", "layer", "found", "expected")}
        return partial(type(self), self.message, **parts, hint=self.hint, code=self.code), ()

    def __str__(self) -> str:
        return self.render(_as_argument)

    def render(self, parameter: Callable[[str, str | None], str]) -> str:
        """Returns the error's line.

        Args:
            parameter: Writes a parameter that the hint names; takes the name, and the value or
                None.
        """
        text = "" if self.path is None else f"{_shorten(self.path, _LONGEST_TEXT)}: "
        text += "" if self.layer is None else f"{_shorten(self.layer)}: "
        text += _shorten(self.message, _LONGEST_TEXT)
        if self.found is not None:
            text += f"; found {_shorten(self.found)}"
        if self.expected is not None:
            text += f"; expected {_shorten(self.expected)}"
        if self.hint is not None:
            hint = _PARAMETER.sub(lambda match: parameter(match[1], match[2]), self.hint)
            text += f" (hint: {_shorten(hint, 2 * _LONGEST_PART)})"
        return printable(" ".join(text.split()))


class ArgumentError(KronqError, ValueError):
    """An argument of a wrong value or a wrong type."""

    code = "argument"


class FormatError(KronqError, ValueError):
    """A file that is damaged, incomplete or not what its name says."""

    code = "format"


class UnsupportedError(KronqError, ValueError):
    """Well-formed input that kronq does not handle."""

    code = "unsupported"


class MismatchError(KronqError, ValueError):
    """An adapter and a base that do not belong together."""

    code = "mismatch"


class NotFoundError(KronqError, FileNotFoundError):
    """An input file or folder that does not exist."""

    code = "not-found"


class OutputExistsError(KronqError, FileExistsError):
    """An output that exists and would have been overwritten."""

    code = "output-exists"


class DiskFullError(KronqError, OSError):
    """An output that finds no room on its disk."""

    code = "disk-full"


class MissingDependencyError(KronqError, ImportError):  # type: ignore[misc]  # both have a path
    """An optional package that the request needs and that is not installed."""

    code = "missing-package"


class KronqWarning(UserWarning):
    """Something strange in an input that is read all the same; a note on the command line."""


def check_type(name: str, value: object, *types: type) -> None:
    """Refuses an argument that is of none of the types; True and False are no numbers.

    Raises:
        ArgumentError: It is of another type.
    """
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ArgumentError(
            f"{name} has the wrong type",
            found=type(value).__name__,
            expected=" or ".join(each.__name__ for each in types),
        )


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuses an argument that is none of the choices.

    Raises:
        ArgumentError: It is something else.
    """
    allowed = tuple(choices)
    if not isinstance(value, str) or value not in allowed:
        raise ArgumentError(f"no such {name}", found=value, expected=", ".join(allowed))


def check_text(name: str, text: str, path: StrPath | None = None) -> None:
    """Refuses a text that UTF-8 cannot write: JSON's escapes can name half of a surrogate pair.

    Raises:
        FormatError: It has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError(
            f"{name} has half of a surrogate pair, which no file can hold",
            path=path,
            found=ascii(text)[:80],
        ) from None


def printable(text: str) -> str:
    """Escapes control characters, so that no name from a file can steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_json(text: str) -> str:
    """Escapes control characters in a JSON text's strings by their numbers; it means the same."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


class Names(str):
    """Names that an error is about, joined by commas; its line shows three and the count.

    Args:
        names: Each of them.
        short: What the line shows instead.

    Attributes:
        names: Each of them.
        short: What the line shows.
    """

    names: tuple[str, ...]
    short: str

    def __new__(cls, names: Iterable[str], short: str | None = None) -> Names:
        names = tuple(names)
        joined = super().__new__(cls, ", ".join(names))
        rest = len(names) - _EXAMPLES
        more = f" and {rest:,} more" if rest > 0 else ""
        joined.names = names
        joined.short = ", ".join(names[:_EXAMPLES]) + more if short is None else short
        return joined

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.names, self.short


def listing(names: Iterable[str]) -> Names:
    """Returns names, sorted, for an error that shows three of them."""
    return Names(sorted(names))


def _shorten(value: object, longest: int = _LONGEST_PART) -> str:
    """Returns a part of an error's line, its beginning if it is long."""
    text = value.short if isinstance(value, Names) else str(value)
    left_out = len(text) - longest
    return text if left_out <= 0 else f"{text[:longest]}… ({left_out:,} more characters)"


def _as_argument(name: str, value: str | None) -> str:
    if value is None:
        return name
    number = re.fullmatch(r"[\d.]+|True|False|None", value)
    return f"{name}={value}" if number else f'{name}="{value}"'
