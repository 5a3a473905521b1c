"""Plausible inputs for any model, made up from the names, types and shapes that it declares."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime as ort

TOKENS = 8
"""Length of every sequence."""

Feeds = dict[str, NDArray[Any]]


class UnknownInputError(Exception):
    """An input of a type that is not made up."""


def make_inputs(
    session: ort.InferenceSession, head_size: int, window: int = 0, given: Collection[str] = ()
) -> Feeds:
    """Makes up inputs: small token ids, full attention, an empty past.

    Args:
        session: The model.
        head_size: Size of the dimensions whose names say head, size or width.
        window: Length of a windowed KV cache, which is never empty.
        given: Names of inputs that are not to be made up.

    Raises:
        UnknownInputError: An input is of a type that is not made up.
    """
    rng = np.random.default_rng(0)
    feeds: Feeds = {}
    for entry in session.get_inputs():
        if entry.name in given:
            continue
        if entry.type not in _MAKERS:
            raise UnknownInputError(f"input {entry.name!r} is {entry.type}")
        shape = [_dimension(dim, head_size, window) for dim in entry.shape]
        feeds[entry.name] = _MAKERS[entry.type](rng, entry.name, shape)
    return feeds


def _dimension(dim: int | str | None, head_size: int, window: int) -> int:
    if isinstance(dim, int):
        return dim
    name = str(dim).lower()
    if "batch" in name:
        return 1
    if "sliding" in name:
        return window
    if "total" in name or "+" in name:
        return TOKENS
    if "past" in name:
        return 0
    return head_size if any(word in name for word in ("dim", "head", "size", "width")) else TOKENS


def _integers(rng: np.random.Generator, name: str, shape: list[int]) -> NDArray[Any]:
    if "mask" in name:
        return np.ones(shape, dtype=np.int64)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape).copy()
    if "type" in name:
        return np.zeros(shape, dtype=np.int64)
    return rng.integers(1, 100, shape)


_MAKERS: dict[str, Callable[[np.random.Generator, str, list[int]], NDArray[Any]]] = {
    "tensor(int64)": _integers,
    "tensor(int32)": lambda rng, name, shape: _integers(rng, name, shape).astype(np.int32),
    "tensor(float)": lambda rng, _, shape: rng.standard_normal(shape).astype(np.float32),
    "tensor(float16)": lambda rng, _, shape: rng.standard_normal(shape).astype(np.float16),
    "tensor(bool)": lambda _, __, shape: np.ones(shape, dtype=np.bool_),
}
