"""Baselines: other tools at one setting, each with the adapter and the file that it makes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialize

from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import F32, Float

FactorRole = Literal["left", "right", "whole"]
"""Role of a factor: ``left`` is B1 [b_out, r], ``right`` B2 [r, b_in], ``whole`` B itself."""

Tensors = Mapping[str, NDArray[Any]]

WEIGHT_SUFFIX = ".weight"
"""Suffix of a float tensor's name."""

PEFT_PREFIX = "base_model.model."
"""Prefix of every layer's name in PEFT's files."""

_LORA = {"left": "lora_B", "right": "lora_A"}
_LOKR = {"left": "lokr_w2_a", "right": "lokr_w2_b", "whole": "lokr_w2"}


@dataclass(frozen=True, eq=False)
class BaselineFile:
    """Adapter in the file of another tool.

    Attributes:
        adapter: Float factors, dequantized as that tool would.
        file: Safetensors file with the tensors that the tool stores.
    """

    adapter: Adapter
    file: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the file: header, codes, scales and zero points."""
        return len(self.file)

    @property
    def payload(self) -> int:
        """Bytes without the safetensors header, for tools that name each layer's tensors."""
        return len(self.file) - 8 - int.from_bytes(self.file[:8], "little")


@dataclass(frozen=True, eq=False)
class Baseline:
    """Another tool at one setting.

    Attributes:
        name: The tool and its setting in tables: ``olive int4 b32``.
        bits: Width of a code, without scales; 16 for floats.
        how: Whose code computes it.
        run: Quantizes a float adapter.
        packages: Import names that ``run`` needs besides kronq's own.
    """

    name: str
    bits: int
    how: str
    run: Callable[[Adapter], BaselineFile]
    packages: tuple[str, ...] = ()

    @property
    def tool(self) -> str:
        """First word of the name."""
        return self.name.split()[0]

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed; none is imported."""
        return tuple(p for p in self.packages if importlib.util.find_spec(p) is None)


@dataclass(frozen=True, eq=False)
class StoredFactor:
    """One factor in the file of a tool.

    Attributes:
        value: The dequantized factor.
        tensors: Suffix of the tensor's name (``.scale``) → tensor in the file.
    """

    value: F32
    tensors: Tensors


Codec = Callable[[F32], StoredFactor]


def store_factors(adapter: Adapter, codec: Codec, *, prefix: str = "") -> BaselineFile:
    """Stores every factor of B by a codec, and A in float16.

    None of these tools reads LoKr: its w2 factors are treated as a LoRA's, and its A, a few numbers
    a layer, would gain nothing from codes.

    Args:
        adapter: Adapter of float factors.
        codec: Stores one factor as the tool does.
        prefix: Prefix of each layer's name in the file.
    """
    layers: dict[str, Delta] = {}
    tensors: dict[str, NDArray[Any]] = {}
    for name, delta in adapter.items():
        names = _LORA if delta.a is ONE else _LOKR
        factors = []
        for role, matrix in factors_of(delta.b):
            stored = codec(matrix)
            factors.append(Float(stored.value))
            stem = f"{prefix}{name}.{names.get(role, role)}"
            # PEFT's LoKr factors are parameters of their own, not the weights of a module.
            for suffix, tensor in stored.tensors.items():
                bare = suffix == WEIGHT_SUFFIX and delta.a is not ONE
                tensors[stem if bare else stem + suffix] = tensor
        a, a_tensors = a_to_float16(delta)
        tensors |= {f"{prefix}{name}.{suffix}": array for suffix, array in a_tensors.items()}
        layers[name] = replace(delta, a=a, b=Product(*factors))
    return make_file(adapter, layers, tensors)


def factors_of(b: Product) -> list[tuple[FactorRole, F32]]:
    """Returns the factors of B with their roles."""
    left, right = b.float32()
    return [("whole", left)] if right is None else [("left", left), ("right", right)]


def to_float16(matrix: F32) -> StoredFactor:
    """Rounds a factor to float16."""
    rounded = matrix.astype(np.float16)
    return StoredFactor(rounded.astype(np.float32), {WEIGHT_SUFFIX: rounded})


def a_to_float16(delta: Delta) -> tuple[Product, Tensors]:
    """Rounds A to float16 and returns its tensors; a LoRA, whose A is implied, has none."""
    if delta.a is ONE:
        return ONE, {}
    factors = [m.float32().astype(np.float16) for m in delta.a.matrices]
    names = ("lokr_w1",) if len(factors) == 1 else ("lokr_w1_a", "lokr_w1_b")
    return Product(*map(Float, factors)), dict(zip(names, factors, strict=True))


def make_file(adapter: Adapter, layers: Mapping[str, Delta], tensors: Tensors) -> BaselineFile:
    """Makes an adapter of the layers and a file of their tensors."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return BaselineFile(
        replace(adapter, layers=dict(layers), recipe=None), bytes(serialize(contiguous))
    )
