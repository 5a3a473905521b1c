"""The scale of a layer by its PEFT config."""

from __future__ import annotations

from kronq.errors import FormatError
from kronq.io.tensors import Tensors
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.scale_rule import ScaleRule, scale_of, uses_alpha


def scale_by_config(
    tensors: Tensors,
    config: PeftConfig,
    options: Options,
    rule: ScaleRule,
    rank: int | None,
    layer: str,
) -> float:
    """Returns a layer's scale, with the config's α unless one is given.

    Raises:
        FormatError: α is no number, or absurd.
    """
    alpha = options.alpha
    if alpha is None and uses_alpha(rule, rank):
        alpha = config.alpha(layer)
    return scale_of(rule, alpha=alpha, rank=rank, path=tensors.path, layer=layer)


def check_rank(tensors: Tensors, config: PeftConfig, layer: str, stored: int | None) -> int:
    """Returns the config's rank of a layer, which its scale divides by.

    Raises:
        FormatError: The tensors have another, so that one of the two gives a wrong scale. PEFT
            cannot load such an adapter.
    """
    rank = config.rank(layer)
    if stored not in (None, rank):
        raise FormatError(
            "the config's rank is not that of the tensors",
            path=tensors.path,
            layer=layer,
            found=stored,
            expected=rank,
            hint="correct it, or {scale_rule=lycoris}, which divides by the tensors' rank",
            code="factors",
        )
    return rank


def refuse_stacked(tensors: Tensors, config: PeftConfig, layer: str, stored: int) -> None:
    """Refuses a LoRA that has the rows of several, whatever its module is called.

    Raises:
        FormatError: Its rank is a multiple of the config's.
    """
    rank = config.rank(layer)
    if 0 < rank < stored and stored % rank == 0:
        raise FormatError(
            f"the factors have {stored / rank:g} times the config's rank, as those of experts have "
            "(target_parameters), which are not supported",
            path=tensors.path,
            layer=layer,
            found=stored,
            expected=rank,
            hint="if it is one LoRA of that rank, correct r in the config",
        )
