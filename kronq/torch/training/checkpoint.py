"""State of a training in one file, from which it goes on to the same result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kronq.errors import FormatError
from kronq.io.files import write_file
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensor_writer import tensor_bytes

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of each parameter."""


@dataclass(frozen=True)
class CheckpointFile:
    """A training's checkpoint.

    Attributes:
        path: The file.
        identity: Digest of all that the result depends on.
    """

    path: Path
    identity: str

    def save(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        losses: list[float],
    ) -> None:
        """Writes the state after ``len(losses)`` steps; the file is whole, or the one before."""
        tensors = {}
        for name, parameter in parameters.items():
            tensors[name] = parameter.detach().cpu().numpy()
            for moment in _MOMENTS:
                tensors[f"{name}.{moment}"] = optimizer.state[parameter][moment].cpu().numpy()
        told = {"identity": self.identity, "losses": json.dumps(losses)}
        write_file(self.path, tensor_bytes(tensors, told), force=True)

    def load(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> list[float]:
        """Reads the state into parameters and optimizer.

        Returns:
            The losses of the steps that are done; none if there is no checkpoint, or it is of
            another training.

        Raises:
            FormatError: It is damaged.
        """
        if not self.path.exists():
            return []
        file = open_tensors(self.path)
        if file.metadata.get("identity") != self.identity:
            return []
        try:
            losses = [float(loss) for loss in json.loads(file.metadata["losses"])]
            state = {
                name: {m: _tensor(file.array(f"{name}.{m}"), p) for m in _MOMENTS}
                for name, p in parameters.items()
            }
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(_tensor(file.array(name), parameter))
        except (KeyError, ValueError, RuntimeError) as error:
            raise FormatError(
                "a damaged checkpoint", path=self.path, found=repr(error), hint="delete it"
            ) from error
        for name, parameter in parameters.items():
            moments = state[name]
            moments["step"] = moments["step"].cpu()
            optimizer.state[parameter] = moments
        return losses


def _tensor(array: object, like: Tensor) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=like.device)
