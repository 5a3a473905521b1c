"""A part of an adapter: the layers that a regular expression names."""

from __future__ import annotations

from dataclasses import replace

from kronq.errors import ArgumentError, check_type
from kronq.model.adapter import Adapter
from kronq.model.layer_expressions import NameMatcher
from kronq.model.layer_names import compress_names


def take_part(adapter: Adapter, expression: str) -> Adapter:
    """Returns the adapter with the layers alone in whose names an expression is found.

    Args:
        adapter: Any adapter, quantized or not.
        expression: A regular expression, searched anywhere in a layer's name: ``^decoder``.

    Raises:
        ArgumentError: It is no regular expression, could take too long, or is in no name.

    Example:
        >>> decoder = take_part(kronq.load("t5-lora/"), "^decoder")
    """
    check_type("only", expression, str)
    matcher = NameMatcher()
    try:
        layers = {n: delta for n, delta in adapter.items() if matcher.matches(expression, n)}
    except ValueError as error:
        raise ArgumentError(f"only: {error}", found=expression) from None
    if not layers:
        raise ArgumentError(
            "no layer has such a name",
            path=adapter.origin.path,
            found=expression,
            expected=f"a part of {', '.join(compress_names([*adapter]))}",
        )
    nbytes = sum(delta.nbytes for delta in layers.values())
    return replace(adapter, layers=layers, origin=replace(adapter.origin, file_bytes=nbytes))
