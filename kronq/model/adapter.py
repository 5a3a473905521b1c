"""An adapter: its layers by name, its origin, and how it was quantized."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, StrPath
from kronq.model.base_fingerprint import BaseFingerprint
from kronq.model.delta import ONE, Delta
from kronq.model.frozen_bases import FrozenBases
from kronq.model.layer_expressions import NameMatcher
from kronq.model.matrix import F32
from kronq.model.stacks import LayerStack, StackedLayers, stacks_of


@dataclass(frozen=True, eq=False)
class Origin:
    """Source of an adapter.

    Attributes:
        format: ``peft``, ``lycoris``, ``factors``, ``kronq`` or ``memory``.
        path: The file or folder that was read; None in memory.
        file_bytes: Size of the tensor file on disk, header included; 0 in memory.
        base_model: The base's name as given with the adapter, or None.
        cropped_by_base: Whether the base may crop ΔW (raw factors do not know d_out).
        keys: Layer → its key in the source file, where the name alone does not tell it, as with
            flattened names.
        system: What trained it, where its tensors tell: ``LoRA-XS``.
        checksum: Of a packed file, as the file states it; None where it has none.
        verified: Whether the checksum was compared.
        tensors: The file that has the tensors; None in memory.
        scale_rule: Rule by which α became the scales; None where there is none.
    """

    format: str
    path: Path | None = None
    file_bytes: int = 0
    base_model: str | None = None
    cropped_by_base: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    checksum: str | None = None
    verified: bool = False
    tensors: Path | None = None
    scale_rule: str | None = None


@dataclass(frozen=True)
class TaskCheck:
    """Loss of a quantized adapter on the task that its size was chosen by, on held-out examples.

    Attributes:
        data: Name of the file of examples.
        examples: Number of held-out examples.
        max_loss_increase: Allowed relative increase of the loss.
        loss_increase: Relative increase of the answers' negative log-likelihood per token over the
            unquantized adapter's.
        interval: Paired 95 % bootstrap interval of ``loss_increase``.
        accuracy: Share of questions answered correctly; None without choices.
        accuracy_before: Accuracy of the unquantized adapter.
    """

    data: str
    examples: int
    max_loss_increase: float
    loss_increase: float
    interval: tuple[float, float]
    accuracy: float | None = None
    accuracy_before: float | None = None


@dataclass(frozen=True, eq=False)
class Recipe:
    """Settings by which an adapter was quantized, as its file records them.

    Attributes:
        method: ``fp16``, ``rtn``, ``balanced``, ``native``, ``compact`` or ``tuned``.
        bits: Requested width of B's codes, 16 for float16; of ``compact`` and ``tuned`` the
            requested bits per weight of the file.
        axis: Channel that shares a scale: ``component``, a rank component, or ``row`` of a factor.
        group_size: Codes that share a scale; None for a whole channel.
        a_bits: Width of A's codes; A is small, and float16 by default.
        layer_bits: Regular expression on the layer's name → width; the last match wins.
        relative_error: ‖ΔW − ΔŴ‖ / ‖ΔW‖ over all layers, six digits of it; None if it was not
            measured.
        task: Loss on the task that the size was chosen by, if it was chosen by one.
        refit: ``fit``, or ``unbiased`` where ΔŴ was scaled to the norm of ΔW.
    """

    method: str
    bits: float
    axis: str = "component"
    group_size: int | None = None
    a_bits: int = 16
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    relative_error: float | None = None
    task: TaskCheck | None = None
    refit: str = "fit"

    def bits_for(self, layer: str) -> float:
        """Returns the requested width of a layer."""
        if self.method == "fp16":
            return 16
        try:
            matching = [b for e, b in self.layer_bits.items() if self._matcher.matches(e, layer)]
        except ValueError as error:
            raise FormatError(f"layer_bits: {error}", layer=layer) from None
        return matching[-1] if matching else self.bits

    @cached_property
    def _matcher(self) -> NameMatcher:
        return NameMatcher()


@dataclass(frozen=True)
class Provenance:
    """Source of a packed adapter, as its file tells it.

    Attributes:
        format: Of the source: ``peft``, ``lycoris``, ``factors`` or ``memory``.
        source: The first 24 hexadecimal digits of the SHA-256 of the source's tensor file, as
            ``sha256sum`` prints it; None in memory.
        scale_rule: Rule by which α became the scales; None where there is none.
        calibration: 24 hexadecimal digits of what second moments depend on, the base's files and
            the tokens of the data; None without calibration.
        kronq: Version of kronq that made it.
    """

    format: str
    source: str | None = None
    scale_rule: str | None = None
    calibration: str | None = None
    kronq: str | None = None


@dataclass(frozen=True, eq=False)
class Adapter(Mapping[str, Delta]):
    """Mapping of module paths of the base (``model.layers.0.self_attn.q_proj``) to their ΔW.

    Attributes:
        layers: In natural order of their names.
        origin: Source of the adapter.
        recipe: Settings of its quantization; None for a trained adapter.
        carried: Name in the source file → tensor of any shape: trained parts that are no ΔW, such
            as biases, norms and whole modules, which stay as they came.
        bases: LoRA-XS's R alone: the bases that its layers need and do not hold; else None.
        provenance: Where a quantized adapter, or a packed file, comes from.
        base: Fingerprint of the base that it was calibrated or tested with; None where nobody
            knows.
    """

    layers: Mapping[str, Delta]
    origin: Origin = field(default_factory=lambda: Origin("memory"))
    recipe: Recipe | None = None
    carried: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    bases: FrozenBases | None = None
    provenance: Provenance | None = None
    base: BaseFingerprint | None = None

    @classmethod
    def from_state_dict(
        cls,
        tensors: Mapping[str, Any],
        config: Mapping[str, Any],
        *,
        base_weights: StrPath | None = None,
        initial: StrPath | None = None,
    ) -> Adapter:
        """Reads a PEFT adapter that is held in memory; nothing imports torch.

        Args:
            tensors: Name → matrix, as ``peft.get_peft_model_state_dict`` returns them: torch
                tensors, numpy arrays, or anything that ``numpy.asarray`` takes. They are copied;
                float64 becomes float32, other dtypes stay.
            config: Settings as in ``adapter_config.json``: ``peft_config.to_dict()``.
            base_weights: As of ``load``.
            initial: As of ``load``.

        Raises:
            ArgumentError: An argument has a wrong type.
            FormatError: Factors are missing or do not fit the config.
            UnsupportedError: A tuner or a setting that kronq does not read.

        Example:
            >>> tensors = peft.get_peft_model_state_dict(model)
            >>> config = model.peft_config["default"].to_dict()
            >>> adapter = kronq.Adapter.from_state_dict(tensors, config)
        """
        from kronq.readers.peft import read_state_dict

        return read_state_dict(tensors, config, base_weights=base_weights, initial=initial)

    def __getitem__(self, name: str) -> Delta:
        return self.layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self.layers

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        text = f"{self.family} adapter, {len(self)} layers, {self.parameters:,} parameters"
        if self.recipe is not None:
            bpw = 8 * self.nbytes / max(1, self.parameters)
            text += f", {self.recipe.method}, {self.nbytes:,} bytes without header ({bpw:.2f} bpw)"
        return f"<{text}>"

    def fit_layer(self, name: str, shape: tuple[int, int]) -> Delta | None:
        """Returns a layer in the shape that the base has for it; None if it cannot have it.

        Raw factors are cropped, if B has the shape that the paper's rule, ceil(d / a), gives.
        """
        delta = self[name]
        if delta.shape == shape:
            return delta
        sizes = zip(shape, delta.a.shape, delta.b.shape, strict=True)
        if self.origin.cropped_by_base and all(-(-d // a) == b for d, a, b in sizes):
            return replace(delta, shape=shape)
        return None

    @property
    def stacks(self) -> Sequence[LayerStack]:
        """All layers, those of one shape stacked."""
        return stacks_of(self.layers)

    @property
    def family(self) -> str:
        """``kron`` if any layer has a stored A, else ``lora``."""
        if isinstance(self.layers, StackedLayers):
            return "kron" if any(stack.a for stack in self.layers.stacks) else "lora"
        return "kron" if any(d.a is not ONE for d in self.layers.values()) else "lora"

    @property
    def parameters(self) -> int:
        carried = sum(array.size for array in self.carried.values())
        if isinstance(self.layers, StackedLayers):
            stacks = self.layers.stacks
            return carried + sum(stack.first.parameters * len(stack.names) for stack in stacks)
        return carried + sum(d.parameters for d in self.layers.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices and of what is carried, without a file's header."""
        carried = sum(array.nbytes for array in self.carried.values())
        if isinstance(self.layers, StackedLayers):
            return carried + sum(stack.nbytes() for stack in self.layers.stacks)
        return carried + sum(d.nbytes for d in self.layers.values())


LARGEST_NORM = 1e18
"""Largest norm of a factor or of ΔW in calculations whose squares are float32."""


def check_norms(adapter: Adapter) -> None:
    """Refuses an adapter whose squared norms float32 cannot hold, as a flipped bit makes them.

    Raises:
        FormatError: A layer has such values.
    """
    if isinstance(adapter.layers, StackedLayers) and all(
        stack.surely_below(LARGEST_NORM) for stack in adapter.layers.stacks
    ):
        return
    for name, delta in adapter.items():
        norms = [_norm(m.float32()) for m in delta.matrices]
        largest = max(*norms, abs(delta.scale) * math.prod(norms))
        if not largest <= LARGEST_NORM:
            raise FormatError(
                "the layer has values too large for float32",
                path=adapter.origin.path,
                layer=name,
                found=f"a norm of {largest:.3g}",
                expected=f"at most {LARGEST_NORM:g}",
                hint="is the file damaged?",
                code="not-finite",
            )


def _norm(values: F32) -> float:
    flat = values.reshape(-1)
    square = float(np.dot(flat, flat))  # float32 holds it, if it is allowed
    if square < LARGEST_NORM**2:
        return math.sqrt(square)
    return float(np.linalg.norm(flat.astype(np.float64)))


def check_finite(adapter: Adapter) -> None:
    """Refuses an adapter with a value that is NaN or infinite.

    Called wherever numbers leave kronq: in a file, in a graph or as scores.

    Raises:
        FormatError: A layer has such a value.
    """
    stacks = adapter.layers.stacks if isinstance(adapter.layers, StackedLayers) else ()
    if stacks and all(stack.surely_finite for stack in stacks):
        return
    for name, delta in adapter.items():
        magnitude = () if delta.magnitude is None else (delta.magnitude,)
        matrices = (*delta.matrices, *magnitude)
        if not (math.isfinite(delta.scale) and all(m.is_finite for m in matrices)):
            raise FormatError(
                "the layer has values that are not finite",
                path=adapter.origin.path,
                layer=name,
                hint="training diverged, or float16 overflowed",
                code="not-finite",
            )
