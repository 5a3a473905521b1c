"""The first field that pydantic refused: what one line of an error has room for."""

from __future__ import annotations

from pydantic import ValidationError


def first_refused(error: ValidationError) -> tuple[str, str]:
    """Returns the first field at fault, and what is wrong with it.

    Returns:
        Its path, as ``"outer.0.inner"``, empty for the whole; and pydantic's message.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(map(str, first["loc"])), first["msg"]
