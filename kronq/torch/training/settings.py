"""What a training is made of, beside its base and its data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from kronq.errors import ArgumentError
from kronq.planning.families import AdapterShape
from kronq.torch.training.peft_families import PEFT_FAMILIES, PeftShape
from kronq.units import parse_size

RATES = {
    **{"lora": 1e-3, "kron": 4e-3, "lokr": 4e-3, "lora-xs": 1.5e-2},
    **{name: family.rate for name, family in PEFT_FAMILIES.items()},
}
"""Family → learning rate. That of LoRA-XS is for R of rank 16 between orthonormal bases."""


@dataclass(frozen=True)
class TrainingSettings:
    """Recipe of a training: AdamW without decay, a warm-up, and a cosine down to zero.

    The loss is the mean negative log-likelihood of the answers' tokens in a batch.

    Attributes:
        shape: Family and sizes of the adapter; a ``PeftShape`` has PEFT train its own.
        rank_stabilized: Whether ΔW has the factor α/√r (rsLoRA, arXiv 2312.03732), not α/r.
        alpha: α; None for 2·r, or the same factor as at rank 8 if rank-stabilized.
        only: A regular expression: layers in whose names it is found; all linear ones but the
            output embedding if None.
        steps: Number of batches.
        batch: Examples in each.
        rate: Learning rate after the warm-up; that of ``RATES`` if None, for LoRA-XS times
            16/r: a step moves each of R's r² entries as far, and ΔW r times as far.
        warmup: Steps over which it rises from 0; a seventh of ``steps`` if None.
        clip: Largest norm of the gradient.
        dropout: Probability that an entry of an adapter's input is left out.
        length: Tokens of a sequence at most; longer examples are cut into pieces.
        end: Whether the token that ends a text is learned behind each answer.
        seed: Of the first values, the order of examples and dropout.
        target: Bytes of a packed file, or a text such as ``"8KB"``: once the rate has risen every
            step runs the adapter as that file will have it. None trains floats alone.
    """

    shape: AdapterShape | PeftShape
    rank_stabilized: bool = False
    alpha: float | None = None
    only: str | None = None
    steps: int = 140
    batch: int = 8
    rate: float | None = None
    warmup: int | None = None
    clip: float = 1.0
    dropout: float = 0.0
    length: int = 512
    end: bool = False
    seed: int = 0
    target: int | str | None = None

    def __post_init__(self) -> None:
        if self.shape.family not in RATES:
            raise ArgumentError(
                "no training of this family", found=self.shape.family, expected=", ".join(RATES)
            )
        if isinstance(self.shape, PeftShape):
            _check_peft(self.shape, self.alpha, self.rank_stabilized)
            if self.target is not None:
                raise ArgumentError(
                    f"{self.shape.family} has no factors to be coded",
                    expected="no target, or another family",
                )
        least = {"steps": 1, "batch": 1, "length": 2, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ArgumentError(f"{name} is at least {value}", found=getattr(self, name))
        if not 0 < self.learning_rate < math.inf or not 0 <= self.dropout < 1:
            raise ArgumentError("no such rate or dropout", found=(self.rate, self.dropout))
        if self.target is not None:
            object.__setattr__(self, "target", parse_size(self.target, "target"))
        if not 0 < self.clip < math.inf or not math.isfinite(self.alpha or 0):
            raise ArgumentError("no such clip or alpha", found=(self.clip, self.alpha))
        if self.warmup is not None and not 0 <= self.warmup < self.steps:
            raise ArgumentError(
                "the warm-up is shorter than the training",
                found=self.warmup,
                expected=f"0 to {self.steps - 1}",
            )

    @property
    def scale(self) -> float | None:
        """Factor of ΔW; None where PEFT's configuration has it."""
        if isinstance(self.shape, PeftShape):
            return None
        rank = self.shape.rank
        if self.rank_stabilized:
            return (2 * math.sqrt(8) if self.alpha is None else self.alpha) / math.sqrt(rank)
        return (2 * rank if self.alpha is None else self.alpha) / rank

    @property
    def learning_rate(self) -> float:
        """Learning rate after the warm-up."""
        if self.rate is not None:
            return self.rate
        rate, rank = RATES[self.shape.family], self.shape.rank
        return rate * 16 / rank if self.shape.family == "lora-xs" and rank else rate

    @property
    def warmup_steps(self) -> int:
        """Steps over which the rate rises from 0."""
        return self.steps // 7 if self.warmup is None else self.warmup

    def rate_factor(self, parameter: str) -> float:
        """Returns what the rate is multiplied with for a parameter of this name."""
        family = PEFT_FAMILIES.get(self.shape.family)
        factors = {} if family is None else family.factors
        return next((factor for part, factor in factors.items() if part in parameter), 1.0)

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a step, as ``get_cosine_schedule_with_warmup`` has it."""
        warmup = self.warmup_steps
        if step < warmup:
            return self.learning_rate * step / warmup
        share = (step - warmup) / max(1, self.steps - warmup)
        return self.learning_rate * max(0.0, 0.5 * (1 + math.cos(math.pi * share)))

    def described(self) -> dict[str, Any]:
        """Returns all settings as JSON has them, with those that were not given worked out."""
        told = asdict(self) | {"rate": self.learning_rate, "scale": self.scale}
        if self.target is None:  # the digests of trainings without one stay what they were
            del told["target"]
        return told | {"peft": self.shape.fields} if isinstance(self.shape, PeftShape) else told


def _check_peft(shape: PeftShape, alpha: float | None, rank_stabilized: bool) -> None:
    if alpha is not None or rank_stabilized:
        raise ArgumentError(f"{shape.family} has no α", found=alpha)
    if shape.rank is not None and not PEFT_FAMILIES[shape.family].rank:
        raise ArgumentError(
            f"{shape.family} has no rank",
            found=shape.rank,
            expected="n_frequency among its options",
        )
