"""What is asked of a writer, what it makes of an adapter, and the rounding that all share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # numpy's bfloat16
import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, StrPath
from kronq.io.tensor_writer import Tensor, TensorParts, tensor_bytes
from kronq.writers.forms import DTYPES


@dataclass(frozen=True)
class Request:
    """How an adapter is written.

    Attributes:
        to: One of ``FORMS``.
        dtype: One of ``DTYPES``.
        base_model: The base's name, its folder or its file, if given.
        title: The output's name, for a model card.
        rank: The largest rank, where the adapter was reduced to a LoRA of it.
        basis: Where the frozen bases of LoRA-XS's R alone are, if given.
    """

    to: str
    dtype: str = "fp32"
    base_model: str | None = None
    title: str = ""
    rank: int | None = None
    basis: StrPath | None = None


@dataclass(frozen=True, eq=False)
class Contents:
    """An adapter as one form holds it, ready to be written.

    Attributes:
        family: ``kron`` or ``lora``.
        ranks: Layer → rank.
        tensors: Name → array, or what makes it when it is written.
    """

    family: str
    ranks: Mapping[str, int]
    tensors: Mapping[str, Tensor]

    @property
    def parameters(self) -> int:
        """Number of values, α not counted."""
        tensors = self.tensors.items()
        return sum(math.prod(t.shape) for name, t in tensors if not name.endswith(".alpha"))


@dataclass(frozen=True, eq=False)
class FileContents(Contents):
    """Contents of one safetensors file.

    Attributes:
        metadata: Of the file.
    """

    metadata: dict[str, str]


@dataclass(frozen=True, eq=False)
class Values:
    """A tensor's values before they are rounded, made when they are written.

    Attributes:
        shape: Of the tensor.
        make: Returns them, in any shape.
    """

    shape: tuple[int, ...]
    make: Callable[[], NDArray[np.float64]]

    def times(self, factor: float) -> Values:
        """Returns the values, multiplied."""
        return Values(self.shape, lambda: self.make() * factor)

    def reshape(self, *shape: int) -> Values:
        """Returns the values in another shape of the same size."""
        return Values(shape, self.make)

    def tensor(self, dtype: str, layer: str) -> TensorParts:
        """Returns the tensor in one of ``DTYPES``; writing it raises what ``cast`` raises."""

        def make() -> list[NDArray[Any]]:
            values = self.make()
            assert values.size == math.prod(self.shape), layer  # noqa: S101
            return [cast(values, dtype, layer)]

        return TensorParts(np.dtype(DTYPES[dtype]), self.shape, make)


def write_file(contents: FileContents, work: Path) -> None:
    """Writes a form that is one safetensors file."""
    with work.open("wb") as file:
        file.writelines(tensor_bytes(contents.tensors, contents.metadata))


def cast(array: NDArray[np.float64], dtype: str, layer: str) -> NDArray[Any]:
    """Rounds an array once, to one of ``DTYPES``.

    Raises:
        ArgumentError: The dtype cannot hold its values.
    """
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(array.astype(DTYPES[dtype]))
    if not np.isfinite(rounded.astype(np.float32)).all():
        raise ArgumentError(
            f"values are too large for {dtype}",
            layer=layer,
            found=f"{np.abs(array).max():.3g}",
            hint="{dtype=fp32} or bf16",
            code="not-finite",
        )
    return rounded
