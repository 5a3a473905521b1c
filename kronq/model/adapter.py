"""A named set of layers and where they came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kronq.model.delta import ONE, Delta
from kronq.model.stacks import Stacked, StackedLayers, gathered


@dataclass(frozen=True, eq=False)
class Origin:
    """Where an adapter came from.

    Attributes:
        format: ``peft``, ``lycoris``, ``factors`` or ``kronq``.
        path: The file or folder that was read; None for one made in memory.
        file_bytes: Size of the tensor file on disk, header included.
        base_model: The base's name as its maker gave it, or None.
        cropped_by_base: Whether the base may cut ΔW to size (raw factors do not know d_out).
    """

    format: str
    path: Path | None = None
    file_bytes: int = 0
    base_model: str | None = None
    cropped_by_base: bool = False


@dataclass(frozen=True)
class TaskCheck:
    """What a packed file lost of the task that its size was chosen by, on held-out examples.

    Attributes:
        data: Name of the file of examples.
        examples: How many were held out.
        max_loss_increase: What was allowed.
        loss_increase: Of the answers' negative log-likelihood per token, relative to the
            unquantized adapter's.
        interval: The paired 95 % interval of that.
        accuracy: Share of questions answered rightly; None without choices.
        accuracy_before: The same of the unquantized adapter.
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
    """How an adapter was quantized, as told in its file.

    Attributes:
        method: ``fp16``, ``rtn``, ``balanced``, ``native``, ``compact`` or ``tuned``.
        bits: Of B's codes, as asked for; 16 is float16. ``compact`` and ``tuned``: of the file, by
            parameter.
        axis: What shares a scale: ``component``, a rank component, or ``row`` of each factor.
        group_size: Codes that share a scale; None for a whole channel.
        a_bits: Of A, which is small and stays float16 unless asked for.
        layer_bits: Regular expression on the layer's name → bits; the last that matches wins.
        relative_error: ‖ΔW − ΔŴ‖ / ‖ΔW‖ over all layers; None when it was not measured.
        task: What it cost a task, where its size was chosen by one.
        refit: ``fit``, or ``unbiased`` where ΔŴ was stretched to the size of ΔW.
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
        """The bits that were asked for in this layer."""
        if self.method == "fp16":
            return 16
        matching = [b for expression, b in self.layer_bits.items() if re.search(expression, layer)]
        return matching[-1] if matching else self.bits


@dataclass(frozen=True, eq=False)
class Adapter(Mapping[str, Delta]):
    """Module path of the base (``model.layers.0.self_attn.q_proj``) → its ΔW.

    Attributes:
        layers: In natural order of their names.
        origin: Where it came from.
        recipe: How it was quantized; None when it was not.
    """

    layers: Mapping[str, Delta]
    origin: Origin = field(default_factory=lambda: Origin("memory"))
    recipe: Recipe | None = None

    def __getitem__(self, name: str) -> Delta:
        return self.layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self.layers

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f"<{self.family} adapter, {len(self)} layers, {self.parameters:,} parameters>"

    def fitted(self, name: str, shape: tuple[int, int]) -> Delta | None:
        """A layer in the shape that its base has; None where that is another one.

        Raw factors are cropped to it, if B is what the paper's rule, ceil(d / a), makes of it.
        """
        delta = self[name]
        if delta.shape == shape:
            return delta
        sizes = zip(shape, delta.a.shape, delta.b.shape, strict=True)
        if self.origin.cropped_by_base and all(-(-d // a) == b for d, a, b in sizes):
            return replace(delta, shape=shape)
        return None

    @property
    def stacks(self) -> Sequence[Stacked]:
        """All layers, those of which the numbers come at once together."""
        if isinstance(self.layers, StackedLayers):
            return self.layers.stacks
        return gathered(self.layers)

    @property
    def family(self) -> str:
        """``kron`` if any layer has an A of its own, else ``lora``."""
        return "kron" if any(d.a is not ONE for d in self.layers.values()) else "lora"

    @property
    def parameters(self) -> int:
        return sum(d.parameters for d in self.layers.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices, without a file's header."""
        return sum(d.nbytes for d in self.layers.values())
