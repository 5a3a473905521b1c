"""Folder of a trained adapter: PEFT's, LoRA-XS's, or one of raw factors for other shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronq.io.blas import small_matrices
from kronq.io.tensor_writer import tensor_bytes
from kronq.model.adapter import Adapter
from kronq.packed.writer import save
from kronq.quantization.configs import Compact
from kronq.quantization.quantize import quantize
from kronq.torch.training.checkpoint import History
from kronq.torch.training.loss_plot import plot_loss
from kronq.torch.training.peft_tuner import write_tuned
from kronq.writers import lora_xs, peft
from kronq.writers.contents import Request, cast

CONFIG = "train.json"
PLOT = "loss.svg"
FACTORS = "factors.safetensors"
PACKED = "packed.safetensors"


@dataclass(frozen=True)
class Layout:
    """How an adapter is written.

    Attributes:
        family: Of the adapter.
        request: What the writer of its folder is asked.
    """

    family: str
    request: Request

    def file(self, out: Path) -> Path:
        """Returns what kronq and others are given: the folder, or the file in it."""
        return out / FACTORS if self.family == "kron" else out

    def write_tuned(
        self, model: Any, work: Path, config: Mapping[str, Any], history: History
    ) -> None:
        """Writes the folder of PEFT's model, its settings and its loss."""
        write_tuned(model, work, self.request.dtype or "fp32")
        _write_record(work, config, history)

    @small_matrices()
    def check(self, adapter: Adapter) -> None:
        """Refuses an adapter that cannot be written, before it is trained.

        Raises:
            UnsupportedError: PEFT has no such shapes.
        """
        if self.family in ("lora", "lokr"):
            peft.build(adapter, self.request)

    @small_matrices()
    def write(
        self, adapter: Adapter, work: Path, config: Mapping[str, Any], history: History
    ) -> None:
        """Writes the adapter, its packed file, its settings and its loss into a folder."""
        if self.family == "kron":
            tensors, told = _raw_factors(adapter, self.request)
            with (work / FACTORS).open("wb") as stream:
                stream.writelines(tensor_bytes(tensors, told))
        elif self.family == "lora-xs":
            lora_xs.write(lora_xs.build(adapter, self.request), work)
        else:
            peft.write(peft.build(adapter, self.request), work)
        if (target := config["settings"].get("target")) is not None:
            save(quantize(adapter, Compact(size=target)), work / PACKED)
        _write_record(work, config, history)


def _write_record(work: Path, config: Mapping[str, Any], history: History) -> None:
    measured = {"losses": history.losses} | ({"sizes": history.sizes} if history.sizes else {})
    text = json.dumps({**config, **measured}, indent=1) + "\n"
    (work / CONFIG).write_text(text, "utf-8")
    plot_loss(history, work / PLOT)


def _raw_factors(adapter: Adapter, request: Request) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns tensors and metadata, as ``kronq.readers.factors`` reads them."""
    tensors = {}
    for name, delta in adapter.items():
        for part, matrix in zip(("A", "B1", "B2"), delta.matrices, strict=True):
            values = matrix.float32().astype("float64")
            tensors[f"{name}.{part}"] = cast(values, request.dtype, name)
    first = next(iter(adapter.values()))
    told = {
        "alpha": repr(first.scale * first.rank),
        "base_model": request.base_model or "",
        "shapes": json.dumps({name: list(delta.shape) for name, delta in adapter.items()}),
    }
    return tensors, told
