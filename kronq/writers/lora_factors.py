"""An adapter as LoRA: two factors and an α for each layer, as all of its writers need them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from kronq.model.adapter import Adapter
from kronq.model.delta import F64
from kronq.model.exact_lora import check_lora_size, exact_lora_factors, exact_lora_rank
from kronq.writers.balance import balance_quantized
from kronq.writers.contents import Values


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """One layer: ΔW = α / rank · up · down.

    Attributes:
        rank: Of both.
        alpha: Not negative.
        weight_shape: (d_out, d_in, *kernel).
        make: Returns up [d_out, rank] and down [rank, d_in·K], each to be multiplied by ``root``.
        root: Square root of what another α took out of the scale.
    """

    rank: int
    alpha: float
    weight_shape: tuple[int, ...]
    make: Callable[[], tuple[F64, F64]]
    root: float = 1.0

    def tensors(self) -> tuple[Values, Values]:
        """Returns up and down, of a convolution one of size one and one of its kernel."""
        rows, channels, *kernel = self.weight_shape
        up = Values((rows, self.rank, *[1] * len(kernel)), lambda: self.make()[0] * self.root)
        return up, Values((self.rank, channels, *kernel), lambda: self.make()[1] * self.root)

    def with_alpha(self, alpha: float) -> LoraLayer:
        """Returns the same ΔW with another α, half of the rest in each factor."""
        root = (self.alpha / alpha) ** 0.5
        return replace(self, root=self.root * root, alpha=alpha)


def lora_layers(adapter: Adapter, *, one_alpha: bool = False) -> dict[str, LoraLayer]:
    """Returns the exact LoRA of every layer, of rank rank(A)·r, without truncation.

    Args:
        adapter: Trained or quantized.
        one_alpha: Gives all layers one α, as is done anyway unless it was trained as LoRA: many
            loaders know no α of a layer.

    Raises:
        UnsupportedError: It would be huge, as that of whole factors can be.
    """
    check_lora_size(adapter)
    trained = adapter.family == "lora" and adapter.recipe is None
    balanced = balance_quantized(adapter)
    factors = lru_cache(maxsize=1)(lambda name: exact_lora_factors(balanced[name]))
    layers = {}
    for name, delta in adapter.items():
        rank = exact_lora_rank(delta)  # that of the balanced one: factors differ by powers of two
        alpha = alpha_of(abs(balanced[name].scale), rank)
        layers[name] = LoraLayer(rank, alpha, delta.weight_shape, partial(factors, name))
    if trained and not one_alpha:
        return layers
    alphas = [layer.alpha for layer in layers.values()]
    alpha = max((most_common(alphas), *alphas), key=bool) or 1.0  # 0 means 1 in llama.cpp
    return {name: layer.with_alpha(alpha) for name, layer in layers.items()}


def alpha_of(scale: float, rank: int) -> float:
    """Returns α with α / rank = scale, as an integer if that is exact."""
    alpha = scale * rank
    return round(alpha) if round(alpha) / rank == scale else alpha


def most_common(values: Iterable[Any]) -> Any:
    """Returns the value that occurs most often; of several the first."""
    return Counter(values).most_common(1)[0][0]
