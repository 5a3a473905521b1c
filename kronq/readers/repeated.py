"""State dicts with the names, shapes and settings of one before, as networks generate them.

Reading one takes Python's steps for every tensor: its name, its layer's rank and scale, its kernel.
Where each tensor became one matrix of a layer as it came, none of that depends on the values. So
the next one's tensors are copied to the same places, stacked, and nothing is read again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.io.tensors import DTYPES, FLOATS
from kronq.model.adapter import Adapter, Origin
from kronq.model.matrix import Float, Matrix
from kronq.model.matrix_stacks import FloatStack
from kronq.model.stacks import LayerStack, StackedLayers

_MOST = 8
"""State dicts that are remembered."""
_DTYPES = {DTYPES[name] for name in FLOATS}
"""Of tensors that stay as they come."""

Kind = tuple[str, tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]]
"""What alike state dicts share: settings, and the tensors' names, shapes and dtypes, in order."""
Names = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Places:
    """Where the tensors of a stack of layers go.

    Attributes:
        names: Of the layers.
        shape: Of the layers.
        scales: Of the layers.
        kernel: Of the layers.
        a: Names of the tensors of A, or of each of its factors, in the order of the layers.
        b: Those of B.
    """

    names: Sequence[str]
    shape: tuple[int, int]
    scales: Sequence[float]
    kernel: tuple[int, ...]
    a: Names
    b: Names


_known: dict[Kind, tuple[Origin, list[_Places]]] = {}


def kind_of(arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Kind | None:
    """Returns the kind of a state dict; None for one that cannot be remembered.

    Args:
        arrays: Its tensors.
        settings: As in ``adapter_config.json``.
    """
    if any(array.dtype not in _DTYPES for array in arrays.values()):
        return None
    try:
        told = json.dumps(settings)
    except (TypeError, ValueError):
        return None
    return told, tuple((name, array.shape, array.dtype) for name, array in arrays.items())


def read_repeated(kind: Kind, arrays: Mapping[str, NDArray[Any]]) -> Adapter | None:
    """Returns the adapter of a state dict of a kind that is remembered, or None."""
    if kind not in _known:
        return None
    origin, places = _known[kind]

    def copy(names: Names) -> tuple[FloatStack, ...]:
        stacks = [np.stack([arrays[name] for name in each]) for each in names]
        for stack in stacks:
            stack.flags.writeable = False
        return tuple(map(FloatStack, stacks))

    stacks = [
        LayerStack(p.names, p.shape, p.scales, copy(p.a), copy(p.b), p.kernel) for p in places
    ]
    return Adapter(StackedLayers(stacks), origin)


def remember(kind: Kind, arrays: Mapping[str, NDArray[Any]], adapter: Adapter) -> None:
    """Remembers where tensors are in an adapter, if each is one matrix of it, as it came.

    Args:
        kind: Of the state dict.
        arrays: Those that the adapter was made of.
        adapter: As it was read.
    """
    sources = {id(array): (name, array) for name, array in arrays.items()}
    places: list[_Places] = []
    used: list[str] = []
    for stack in adapter.stacks:
        layers = range(len(stack.names))
        a, b = (
            tuple(tuple(_source(of.matrix(i), sources) for i in layers) for of in product)
            for product in (stack.a, stack.b)
        )
        for names in (*a, *b):
            used += names
            if "" in names or len({arrays[name].dtype for name in names}) > 1:
                return
        places.append(_Places(stack.names, stack.shape, stack.scales, stack.kernel, a, b))
    if sorted(used) != sorted(arrays):  # magnitudes, or what is carried
        return
    while len(_known) >= _MOST:
        _known.pop(next(iter(_known)), None)
    _known[kind] = adapter.origin, places


def _source(matrix: Matrix, sources: Mapping[int, tuple[str, NDArray[Any]]]) -> str:
    """Returns the name of the tensor that a matrix is; empty for one that was computed."""
    array = matrix.array if isinstance(matrix, Float) else None
    for each in (array, getattr(array, "base", None)):
        name, source = sources.get(id(each), ("", None))
        if isinstance(array, np.ndarray) and source is not None:
            same = (array.shape, array.strides, array.dtype)
            return name if same == (source.shape, source.strides, source.dtype) else ""
    return ""
