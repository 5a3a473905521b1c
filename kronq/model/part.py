"""A part of an adapter: the layers that a regular expression names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from kronq.errors import ArgumentError, check_type, listing
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.model.flat_names import strip_prefix
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
            found=f'"{expression}"',
            expected="a regular expression that is found in some of "
            f"{listing(compress_names([*adapter])).short}",
            hint="kronq inspect shows the layers",
        )
    keys = {name: key for name, key in adapter.origin.keys.items() if name in layers}
    carried = _carried_part(adapter, layers, matcher, expression)
    bases = None if adapter.bases is None else adapter.bases.part(layers)
    part = replace(adapter, layers=layers, carried=carried, bases=bases)
    origin = replace(adapter.origin, file_bytes=part.nbytes, keys=keys)
    return replace(part, origin=origin)


def _carried_part(
    adapter: Adapter, layers: Mapping[str, Delta], matcher: NameMatcher, expression: str
) -> dict[str, NDArray[Any]]:
    """Returns the carried tensors of the layers, and others in whose names it is found."""
    owners = {key: name for name, key in adapter.origin.keys.items()}
    found = {}
    for tensor, array in adapter.carried.items():
        key = tensor.rpartition(".")[0]
        owner = owners.get(key, key)
        if owner in adapter:
            kept = owner in layers
        else:
            kept = matcher.matches(expression, f"{strip_prefix(key)}.{tensor.rpartition('.')[2]}")
        if kept:
            found[tensor] = array
    return found
