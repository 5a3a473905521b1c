"""What a training came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import printable

_WINDOW = 10


class Trained(BaseModel):
    """A training that is done."""

    model_config = ConfigDict(frozen=True)

    path: str = Field(description="What kronq and others read: a PEFT folder, or raw factors.")
    layers: int = Field(description="Layers that are adapted.")
    parameters: int = Field(description="Numbers that were trained.")
    steps: int
    resumed: int = Field(description="Step that it went on from; 0 if from the beginning.")
    first_loss: float = Field(description="Of the first ten steps on average, in nats a token.")
    last_loss: float = Field(description="Of the last ten steps on average.")

    packed: str | None = Field(description="The packed file; null without a target.")
    bytes: int | None = Field(description="Of the packed file.")

    @classmethod
    def of(
        cls,
        path: Path,
        counts: tuple[int, int],
        losses: Sequence[float],
        resumed: int,
        packed: Path | None = None,
    ) -> Trained:
        """Returns what was trained, (layers, numbers), with its losses as means."""
        first, last = losses[:_WINDOW], losses[-_WINDOW:]
        return cls(
            path=printable(str(path)),
            layers=counts[0],
            parameters=counts[1],
            steps=len(losses),
            resumed=resumed,
            first_loss=sum(first) / len(first),
            last_loss=sum(last) / len(last),
            packed=None if packed is None else printable(str(packed)),
            bytes=None if packed is None else packed.stat().st_size,
        )
