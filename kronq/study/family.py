"""Families of adapters in a study's file, and how they are trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PEFT = ("vera", "vblora", "unilora", "tinylora", "fourierft")
"""Families that PEFT trains."""
Own = Literal["lora", "rslora", "lokr", "kron", "lora-xs"]


class Part(BaseModel):
    """Part of a study's file: no field that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Recipe(Part):
    """Recipe of a training: fields of ``kronq.torch.TrainingSettings``, None for its default.

    Attributes:
        target: Bytes of the packed file that is trained for, as ``5KB``. That file is then made of
            the adapter, and others only by methods that name the family.
    """

    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    warmup: int | None = None
    clip: float | None = None
    dropout: float | None = None
    length: int | None = None
    alpha: float | None = None
    only: str | None = None
    target: str | int | None = None

    def given(self) -> dict[str, Any]:
        """Returns the fields that were given."""
        fields = {name: getattr(self, name) for name in Recipe.model_fields}
        return {name: value for name, value in fields.items() if value is not None}


class Family(Recipe):
    """A family of adapters at one size; fields of the recipe are instead of the study's.

    Attributes:
        family: One of kronq's, or of those that PEFT trains.
        rank: r; of PEFT's families None is their default.
        a_in: Of ``kron``, as of ``AdapterShape``.
        a_out: Likewise.
        b_out: Likewise.
        factor: Of ``lokr``.
        peft: Fields of PEFT's configuration, of its families.
    """

    family: Own | Literal["vera", "vblora", "unilora", "tinylora", "fourierft"]
    rank: int | None = Field(default=None, ge=1)
    a_in: int = 2
    a_out: int | None = None
    b_out: int = 200
    factor: int = 4
    peft: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ranked(self) -> Family:
        if self.rank is None and self.family not in PEFT:
            raise ValueError(f"{self.family} has a rank")
        if self.peft and self.family not in PEFT:
            raise ValueError(f"PEFT does not train {self.family}")
        return self
