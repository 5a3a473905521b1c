"""What an adapter has beside the ΔW of linear layers: kernels, magnitudes and carried tensors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from kronq.errors import listing
from kronq.model.adapter import Adapter
from kronq.model.frozen_bases import LORA_XS


class CarriedTensor(BaseModel):
    """A trained tensor that is no ΔW and is stored as it came."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="Its name in the source file.")
    shape: list[int]
    dtype: str
    bytes: int


class OtherParts(BaseModel):
    """Parts of an adapter that are not quantized, and how many of its layers are convolutions."""

    model_config = ConfigDict(frozen=True)

    layers: int = Field(description="All layers.")
    convolutions: int = Field(description="Layers that are convolutions.")
    magnitudes: int = Field(description="Layers with DoRA's magnitude.")
    magnitude_bytes: int = Field(description="Bytes of all magnitudes.")
    carried: list[CarriedTensor]
    bases: str | None = Field(
        default=None, description="The frozen bases that LoRA-XS's R alone needs; null without."
    )

    def lines(self) -> list[str]:
        """Returns a line about each kind of part that there is."""
        lines = []
        if self.bases:
            lines.append(f"{LORA_XS}: R alone; needs {self.bases}, which --basis tells")
        if self.convolutions:
            lines.append(
                f"convolutions: {self.convolutions:,} of {self.layers:,} layers; their ΔW is "
                "d_out × (d_in · positions in the kernel)"
            )
        if self.magnitudes:
            lines.append(
                f"DoRA: magnitudes of {self.magnitudes:,} of {self.layers:,} layers, "
                f"{self.magnitude_bytes:,} bytes, never quantized; errors are of ΔW alone"
            )
        if self.carried:
            count = "1 tensor" if len(self.carried) == 1 else f"{len(self.carried):,} tensors"
            size = sum(each.bytes for each in self.carried)
            names = listing(each.name for each in self.carried).short
            lines.append(f"carried, never quantized: {count}, {size:,} bytes: {names}")
        return lines


def other_parts(adapter: Adapter) -> OtherParts:
    """Counts the parts, without reading any matrix."""
    stacks = adapter.stacks
    return OtherParts(
        layers=len(adapter),
        convolutions=sum(len(stack.names) for stack in stacks if stack.kernel),
        magnitudes=sum(len(s.names) for s in stacks if s.magnitude is not None),
        magnitude_bytes=sum(s.magnitude.nbytes() for s in stacks if s.magnitude is not None),
        bases=None if adapter.bases is None else adapter.bases.described,
        carried=[
            CarriedTensor(
                name=name, shape=[*array.shape], dtype=str(array.dtype), bytes=array.nbytes
            )
            for name, array in adapter.carried.items()
        ],
    )
