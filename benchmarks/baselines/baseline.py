"""What a baseline is, and how any tool's treatment of one factor becomes an adapter and a file."""

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

Side = Literal["left", "right", "whole"]
"""Which factor: ``left`` is B1 [b_out, r], ``right`` B2 [r, b_in], ``whole`` a B without a rank."""

Tensors = Mapping[str, NDArray[Any]]

WEIGHT = ".weight"
"""End of a float tensor's name."""

PEFT = "base_model.model."
"""What PEFT puts before every layer's name."""

_LORA = {"left": "lora_B", "right": "lora_A"}
_LOKR = {"left": "lokr_w2_a", "right": "lokr_w2_b", "whole": "lokr_w2"}


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """An adapter as another tool keeps it.

    Attributes:
        adapter: Float factors, as that tool would dequantize them.
        file: A whole safetensors file as that tool would store them.
    """

    adapter: Adapter
    file: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """The size of the file: header, codes, scales and zero points."""
        return len(self.file)

    @property
    def payload(self) -> int:
        """The same without the safetensors header, for tools that name each layer's tensors."""
        return len(self.file) - 8 - int.from_bytes(self.file[:8], "little")


@dataclass(frozen=True, eq=False)
class Baseline:
    """One tool at one setting.

    Attributes:
        name: The tool and its setting, as tables show it: ``olive int4 b32``.
        bits: Of a code, without scales; 16 for floats.
        how: Whose code computes it.
        run: A float adapter in, what the tool keeps of it out.
        packages: Import names that ``run`` needs beside kronq's own.
    """

    name: str
    bits: int
    how: str
    run: Callable[[Adapter], BaselineResult]
    packages: tuple[str, ...] = ()

    @property
    def tool(self) -> str:
        """The first word of its name."""
        return self.name.split()[0]

    @property
    def missing(self) -> tuple[str, ...]:
        """Those of its packages that are not installed; none is imported."""
        return tuple(p for p in self.packages if importlib.util.find_spec(p) is None)


@dataclass(frozen=True, eq=False)
class Stored:
    """One factor as a tool keeps it.

    Attributes:
        value: What the tool reads back, the shape of the factor.
        tensors: End of the tensor's name (``.scale``) → what goes into the file.
    """

    value: F32
    tensors: Tensors


Codec = Callable[[F32, Side], Stored]


def by_factor(adapter: Adapter, codec: Codec, *, prefix: str = "") -> BaselineResult:
    """Every factor of B through ``codec``, each with tensors of its own; A in float16.

    None of these tools reads LoKr: its w2 factors are treated as a LoRA's, and its A, a few numbers
    a layer, would gain nothing from codes.

    Args:
        adapter: Float factors.
        codec: The tool.
        prefix: Put before each layer's name in the file.
    """
    layers: dict[str, Delta] = {}
    tensors: dict[str, NDArray[Any]] = {}
    for name, delta in adapter.items():
        names = _LORA if delta.a is ONE else _LOKR
        factors = []
        for side, matrix in sides(delta.b):
            stored = codec(matrix, side)
            factors.append(Float(stored.value))
            stem = f"{prefix}{name}.{names.get(side, side)}"
            # PEFT's LoKr factors are parameters of their own, not the weights of a module.
            ends = {end if delta.a is ONE or end != WEIGHT else "": end for end in stored.tensors}
            tensors |= {stem + end: stored.tensors[kept] for end, kept in ends.items()}
        a, halves = half_a(delta)
        tensors |= {f"{prefix}{name}.{role}": array for role, array in halves.items()}
        layers[name] = replace(delta, a=a, b=Product(*factors))
    return result(adapter, layers, tensors)


def sides(b: Product) -> list[tuple[Side, F32]]:
    """The factors of B and which each is."""
    left, right = b.float32()
    return [("whole", left)] if right is None else [("left", left), ("right", right)]


def half(matrix: F32) -> Stored:
    """A factor in float16: what a tool leaves alone."""
    kept = matrix.astype(np.float16)
    return Stored(kept.astype(np.float32), {WEIGHT: kept})


def half_a(delta: Delta) -> tuple[Product, Tensors]:
    """A rounded to float16, and its tensors; nothing of a LoRA, whose A is implied."""
    if delta.a is ONE:
        return ONE, {}
    halves = [m.float32().astype(np.float16) for m in delta.a.matrices]
    roles = ("lokr_w1",) if len(halves) == 1 else ("lokr_w1_a", "lokr_w1_b")
    return Product(*map(Float, halves)), dict(zip(roles, halves, strict=True))


def result(adapter: Adapter, layers: Mapping[str, Delta], tensors: Tensors) -> BaselineResult:
    """The layers as an adapter of floats, and their tensors as a file."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return BaselineResult(
        replace(adapter, layers=dict(layers), recipe=None), bytes(serialize(contiguous))
    )
