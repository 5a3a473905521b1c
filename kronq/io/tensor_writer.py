"""Safetensors files written tensor by tensor, in the bytes that the safetensors library gives.

The library takes all tensors at once, and returns a file in memory. Here a tensor may come in
parts, made when they are written, so that memory holds one part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_DTYPES: dict[np.dtype[Any], str] = {
    np.dtype(dtype): name
    for name, dtype in {
        "U64": np.uint64,
        "I64": np.int64,
        "F64": np.float64,
        "C64": np.complex64,
        "F32": np.float32,
        "U32": np.uint32,
        "I32": np.int32,
        "BF16": ml_dtypes.bfloat16,
        "F16": np.float16,
        "U16": np.uint16,
        "I16": np.int16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I8": np.int8,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
"""Names of dtypes, in the order of their tensors in a file."""
_ORDER = {name: place for place, name in enumerate(_DTYPES.values())}
_ALIGNMENT = 8


@dataclass(frozen=True, eq=False)
class TensorParts:
    """A tensor whose values are made when they are written.

    Attributes:
        dtype: Of the tensor.
        shape: Of the tensor.
        make: Returns the values, in the tensor's order, in arrays of any shape.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    make: Callable[[], Iterable[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


Tensor = NDArray[Any] | TensorParts
Tensors = Mapping[str, Tensor]


def tensors_size(tensors: Tensors, metadata: Mapping[str, str]) -> int:
    """Returns the bytes of the file; no tensor's values are made."""
    return len(_header(tensors, metadata)) + sum(each.nbytes for each in tensors.values())


def tensor_bytes(tensors: Tensors, metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Returns the file in parts, for ``kronq.io.files.write_file``.

    Args:
        tensors: By name; arrays with any strides.
        metadata: Free strings beside them, which are written in the order of their names; the
            library writes several in any order.
    """
    yield _header(tensors, metadata)
    for name in _in_order(tensors):
        tensor = tensors[name]
        left = tensor.nbytes
        for part in tensor.make() if isinstance(tensor, TensorParts) else [tensor]:
            data = np.asarray(part, order="C").reshape(-1).view(np.uint8).data
            left -= len(data)
            yield data
        assert not left, name  # noqa: S101


def _in_order(tensors: Tensors) -> list[str]:
    return sorted(tensors, key=lambda name: (_ORDER[_DTYPES[tensors[name].dtype]], name.encode()))


def _header(tensors: Tensors, metadata: Mapping[str, str]) -> bytes:
    """Returns the header with its length in front."""
    described: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in _in_order(tensors):
        tensor = tensors[name]
        described[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
