"""Named tensors as numpy arrays, bfloat16 included: of a file, or held in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, FormatError, check_type

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
FLOATS = ("F32", "F16", "BF16")
FLOAT8: dict[str, np.dtype[Any]] = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""Dtypes that float16 holds exactly, and becomes."""
NUMBERS: dict[str, np.dtype[Any]] = {
    **DTYPES,
    **FLOAT8,
    "F64": np.dtype(np.float64),
    **{f"{k.upper()}{n}": np.dtype(f"{k}{n // 8}") for k in "iu" for n in (16, 32, 64)},
}
"""Dtypes that a single number may have, such as α."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_DIMENSIONS = 5
"""Of the weight of a three-dimensional convolution."""


@dataclass(frozen=True)
class Entry:
    """Dtype, shape and place of one tensor.

    Attributes:
        dtype: Its name in safetensors (``BF16``).
        shape: As stored.
        offset: Of its first byte within the file; 0 in memory.
        nbytes: Its length in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Tensors:
    """Tensors by name.

    Attributes:
        path: The file, for errors too; None in memory.
        size: Bytes on disk, header included; 0 in memory.
        metadata: Free strings beside the tensors.
        entries: Every tensor by name.
    """

    path: Path | None
    size: int
    metadata: dict[str, str]
    entries: dict[str, Entry]

    def array(self, name: str) -> NDArray[Any]:
        """Returns one tensor.

        Raises:
            FormatError: Its dtype is not one that adapters are made of.
        """
        return self._array_of(name, DTYPES)

    def any_array(self, name: str) -> NDArray[Any]:
        """Returns one tensor of any dtype that numpy has.

        Raises:
            FormatError: numpy has none for it.
        """
        return self._array_of(name, NUMBERS)

    def _array_of(self, name: str, dtypes: Mapping[str, np.dtype[Any]]) -> NDArray[Any]:
        """Returns one tensor of one of these dtypes."""
        dtype = self.entries[name].dtype
        if dtype not in dtypes:
            raise FormatError(
                f"tensor {name!r} has an unsupported dtype",
                path=self.path,
                found=dtype,
                expected=f"one of {', '.join(dtypes)}",
                code="dtype",
            )
        return self._array(name)

    def matrix(self, name: str) -> NDArray[Any]:
        """Returns a two-dimensional floating-point tensor, as ``weight`` does.

        Raises:
            FormatError: It is of another kind.
        """
        if len(self.entries[name].shape) != 2:
            raise self._not_a_weight(name, "matrix", "two dimensions")
        return self.weight(name)

    def weight(self, name: str) -> NDArray[Any]:
        """Returns a floating-point tensor of two dimensions, or more as convolutions have.

        float64 becomes float32, and float8 becomes float16, which holds its values exactly.

        Raises:
            FormatError: It is of another kind.
        """
        entry = self.entries[name]
        is_weight = 2 <= len(entry.shape) <= _MOST_DIMENSIONS and 0 not in entry.shape
        if is_weight and (entry.dtype == "F64" or entry.dtype in FLOAT8):
            dtype = np.float32 if entry.dtype == "F64" else np.float16
            with np.errstate(over="ignore"):
                return self._array(name).astype(dtype)
        if entry.dtype not in FLOATS or not is_weight:
            kind = "matrix" if len(entry.shape) == 2 else "weight"
            raise self._not_a_weight(name, kind, f"2 to {_MOST_DIMENSIONS} dimensions")
        return self.array(name)

    def _not_a_weight(self, name: str, kind: str, dimensions: str) -> FormatError:
        entry = self.entries[name]
        is_number = entry.dtype in (*FLOATS, *FLOAT8, "F64")
        return FormatError(
            f"tensor {name!r} is not a floating-point {kind}",
            path=self.path,
            found=f"{entry.dtype} {list(entry.shape)}",
            expected=f"{dimensions} of {', '.join(FLOATS)}",
            code="tensors" if is_number else "dtype",
        )

    def vector(self, name: str) -> NDArray[Any]:
        """Returns a floating-point tensor of any dimensions as a vector, in ``weight``'s dtypes.

        Raises:
            FormatError: It has no values, or others.
        """
        entry = self.entries[name]
        if 0 in entry.shape or entry.dtype not in (*FLOATS, *FLOAT8, "F64"):
            raise self._not_a_weight(name, "vector", "values")
        values = self._array(name).reshape(-1)
        if entry.dtype in FLOATS:
            return values
        return values.astype(np.float32 if entry.dtype == "F64" else np.float16)

    def number(self, name: str) -> float:
        """Returns a tensor of one number, of any dtype.

        Raises:
            FormatError: It is not one number.
        """
        entry = self.entries[name]
        if entry.dtype not in NUMBERS or entry.nbytes == 0 or entry.shape not in ((), (1,)):
            raise FormatError(
                f"{name!r} is not a number",
                path=self.path,
                found=f"{entry.dtype} {list(entry.shape)}",
                expected="one value",
            )
        return float(self._array(name).reshape(-1)[0])

    def _array(self, name: str) -> NDArray[Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class ArrayTensors(Tensors):
    """Tensors held in memory.

    Attributes:
        arrays: Every tensor by name.
    """

    arrays: dict[str, NDArray[Any]]

    def _array(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


def as_arrays(tensors: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Returns numpy arrays, torch tensors, or what ``numpy.asarray`` takes, as arrays.

    Raises:
        ArgumentError: A name is no string, or a value no array.
    """
    check_type("tensors", tensors, Mapping)
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in tensors.items():
        check_type("a tensor's name", name, str)
        try:
            arrays[name] = _as_numpy(value)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ArgumentError(f"tensor {name!r} is no array", found=str(error)) from None
    return arrays


def copy_tensors(tensors: Mapping[str, NDArray[Any]]) -> ArrayTensors:
    """Copies arrays; float64 becomes float32, float8 float16, and every other dtype stays."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in tensors.items():
        dtype = np.float32 if array.dtype == np.float64 else array.dtype
        dtype = np.dtype(np.float16) if array.dtype in FLOAT8.values() else dtype
        arrays[name] = np.array(array, dtype=dtype, order="C")
        arrays[name].flags.writeable = False
    entries = {
        name: Entry(_NAMES.get(array.dtype) or str(array.dtype), array.shape, 0, array.nbytes)
        for name, array in arrays.items()
    }
    return ArrayTensors(None, 0, {}, entries, arrays)


def _as_numpy(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # torch, which need not be installed
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy() refuses it; float32 holds it exactly
            bfloat16: NDArray[Any] = value.float().numpy().astype(ml_dtypes.bfloat16)
            return bfloat16
        if str(value.dtype) in ("torch.float8_e4m3fn", "torch.float8_e5m2"):
            value = value.half()
        value = value.numpy()
    return np.asarray(value)
