"""Scale rules: how α and the rank become a layer's scale, on which formats disagree.

| rule        | scale                                      | used by                 |
|-------------|--------------------------------------------|-------------------------|
| ``peft``    | α / r, also when both factors are whole    | PEFT                    |
| ``rslora``  | α / √r                                     | PEFT ``use_rslora``     |
| ``lycoris`` | α / rank; 1 when both factors are whole    | LyCORIS, ComfyUI        |
| ``one``     | 1, α ignored                               | PEFT forks 0.8 to 0.13  |

A reader applies the rule once; after that a layer's scale is a stored value.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from kronq.errors import FormatError, StrPath

ScaleRule = Literal["peft", "rslora", "lycoris", "one"]
SCALE_RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)

LARGEST_SCALE = 1e4
"""Largest size of a scale that is believed: a larger α is a placeholder (ai-toolkit's 1e10)."""


def scale_of(
    rule: ScaleRule, *, alpha: float | None, rank: int | None, path: StrPath | None, layer: str
) -> float:
    """Returns the scale of one layer.

    Args:
        rule: One of ``SCALE_RULES``.
        alpha: α as stored; None, where the file has none, stands for the rank.
        rank: Rank that the format divides by; None when both factors are whole.
        path: For the error.
        layer: For the error.

    Raises:
        FormatError: α is not finite or absurd, or the rule needs a rank and has none.
    """
    if not uses_alpha(rule, rank):
        return 1.0
    if rank is None or rank <= 0:
        raise FormatError(
            f"the scale rule {rule!r} divides by a rank and this layer has none",
            path=path,
            layer=layer,
            found=rank,
            hint="{scale_rule=lycoris} or one",
        )
    value = (rank if alpha is None else alpha) / (math.sqrt(rank) if rule == "rslora" else rank)
    if not math.isfinite(value) or abs(value) > LARGEST_SCALE:
        raise FormatError(
            "the scale is absurd",
            path=path,
            layer=layer,
            found=f"alpha {alpha:g} / rank {rank} by the rule {rule!r}",
            expected=f"at most {LARGEST_SCALE:g}",
            hint="alpha may be a placeholder: {alpha} replaces it, {scale_rule=one} is scale 1",
            code="scale",
        )
    return value


def uses_alpha(rule: ScaleRule, rank: int | None) -> bool:
    """Tells whether a layer's scale depends on α; ``rank`` is None when both factors are whole."""
    return rule != "one" and not (rule == "lycoris" and rank is None)
