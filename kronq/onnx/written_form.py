"""The result of writing one form of an export, before it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LayerWeight = tuple[str, str]
"""A layer, and the name of its weight in the base: of a fused layer there may be several."""


@dataclass(frozen=True)
class WrittenForm:
    """Names in the folder and the graph that a form was written under.

    Attributes:
        branches: Branch node → its layer.
        weights: Layer and weight → the initializer of the merged weight, or of its codes.
        kept: 1 − ‖stored change − ΔW‖² ÷ ‖ΔW‖² of merged weights; None for other forms.
        layers_kept: The same of each layer.
        adapter_file: Packed file with the branches' factors.
        library: The compiled operator's library that genai_config.json names.
        platforms: Those that its libraries are for.
        open_because: Why slots are ONNX's own operators, where nobody asked for these.
    """

    branches: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[LayerWeight, str] = field(default_factory=dict)
    kept: float | None = None
    layers_kept: Mapping[str, float] = field(default_factory=dict)
    adapter_file: str | None = None
    library: str | None = None
    platforms: Sequence[str] = ()
    open_because: str | None = None
