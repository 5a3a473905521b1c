"""The guard around everything that reads a stranger's graph: damage is one error of the family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kronq.errors import FormatError, KronqError, MismatchError

_LONGEST = 200
"""Characters of a foreign message that are kept: onnx-ir quotes whole graphs."""


@contextmanager
def guard_base(path: Path) -> Iterator[None]:
    """Raises a FormatError in place of whatever a damaged graph makes the block raise.

    Errors of the disk and of memory are not the graph's and pass, as kronq's own do; one of an
    adapter that does not belong to the base gets the base's name.

    Args:
        path: The base's .onnx file.

    Raises:
        FormatError: The block failed; the failure itself is its cause.
    """
    try:
        yield
    except MismatchError as error:
        if error.path is None:  # the matching knows the graph and not its file
            error.path = path
            error.args = (str(error),)
        raise
    except (KronqError, OSError, MemoryError):
        raise
    except Exception as error:
        raise FormatError(
            "the base's graph is damaged, or of a kind that kronq does not know",
            path=path,
            found=_describe_error(error),
            expected="a model that onnx.checker accepts",
        ) from error


def _describe_error(error: BaseException) -> str:
    """Returns the first line of the error that began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:_LONGEST]}" if lines else type(error).__name__
