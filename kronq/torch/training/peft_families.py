"""Families that PEFT trains and writes: few numbers, around what a seed or the base gives again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PeftFamily:
    """A tuner of PEFT.

    Attributes:
        config: Class of its configuration, in ``peft``.
        rate: Learning rate, as its paper has it.
        receiver: What a receiver of the trained numbers makes again, or has.
        rank: Whether it has a rank, ``r``.
        dropout: Field of its dropout; None where it has none.
        defaults: Fields of the configuration that are not PEFT's defaults.
        factors: Part of a parameter's name → factor of the rate.
        frozen: Parts of the names of tensors that PEFT writes though they are not trained.
    """

    config: str
    rate: float
    receiver: str
    rank: bool = True
    dropout: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()


PEFT_FAMILIES: Mapping[str, PeftFamily] = {
    "vera": PeftFamily(
        "VeraConfig",
        4e-3,
        "A and B for all layers, made of a seed by torch",
        dropout="vera_dropout",
        defaults={"r": 256, "save_projection": False},
    ),
    "vblora": PeftFamily(
        "VBLoRAConfig",
        1e-2,
        "nothing: the bank of vectors is in the file",
        dropout="vblora_dropout",
        defaults={"r": 4, "num_vectors": 256, "save_only_topk_weights": True},
        factors={"vblora_vector_bank": 0.1},
    ),
    "unilora": PeftFamily(
        "UniLoraConfig",
        5e-3,
        "which number is where in A and B, made of a seed by numpy",
        dropout="unilora_dropout",
        defaults={"theta_d_length": 4096},
    ),
    "tinylora": PeftFamily(
        "TinyLoraConfig",
        5e-3,
        "A and B, singular vectors of the base's weights, and P, made of a seed by torch; "
        "PEFT's file holds all three",
        dropout="tinylora_dropout",
        frozen=("tinylora_A", "tinylora_B", "tinylora_P"),
    ),
    "fourierft": PeftFamily(
        "FourierFTConfig",
        3e-2,
        "the places of the frequencies, made of a seed by torch",
        rank=False,
        defaults={"n_frequency": 100, "scaling": 300.0},
    ),
}
"""Name → family. VeRA arXiv 2310.11454, VB-LoRA 2405.15179, Uni-LoRA 2506.00799, TinyLoRA
2602.04118, FourierFT 2405.03003."""


@dataclass(frozen=True)
class PeftShape:
    """A family of ``PEFT_FAMILIES`` and the fields of PEFT's configuration.

    Attributes:
        family: Its name.
        rank: r; None for the family's default, and where there is none.
        options: Field → value, such as ``{"num_vectors": 90}``.
    """

    family: str
    rank: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = "".join(f", {name} {value}" for name, value in sorted(self.options.items()))
        return f"{self.family}{told}"

    @property
    def fields(self) -> dict[str, Any]:
        """All fields of the configuration that are not PEFT's defaults."""
        rank = {} if self.rank is None else {"r": self.rank}
        return {**PEFT_FAMILIES[self.family].defaults, **self.options, **rank}
