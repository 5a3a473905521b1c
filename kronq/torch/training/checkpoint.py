"""State of a training in one file, from which it goes on to the same result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kronq.errors import FormatError
from kronq.io.files import write_file
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensor_writer import tensor_bytes

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of each parameter."""


INTERVAL = 10
"""Steps between two checkpoints."""


@dataclass(frozen=True)
class History:
    """What was measured in each step that is done.

    Attributes:
        losses: Of the batches.
        sizes: Bytes of the packed file, 0 where there were no codes; empty without a target.
    """

    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


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
        history: History,
    ) -> None:
        """Writes the state after the steps of a history; the file is whole, or the one before."""
        tensors = {}
        for name, parameter in parameters.items():
            tensors[name] = parameter.detach().cpu().numpy()
            for moment in _MOMENTS:
                tensors[f"{name}.{moment}"] = optimizer.state[parameter][moment].cpu().numpy()
        told = {"identity": self.identity}
        told |= {"losses": json.dumps(history.losses), "sizes": json.dumps(history.sizes)}
        write_file(self.path, tensor_bytes(tensors, told), force=True)

    def load(self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> History:
        """Reads the state into parameters and optimizer.

        Returns:
            The history of the steps that are done; empty if there is no checkpoint, or it is of
            another training.

        Raises:
            FormatError: It is damaged.
        """
        if not self.path.exists():
            return History()
        file = open_tensors(self.path)
        if file.metadata.get("identity") != self.identity:
            return History()
        try:
            history = History(
                [float(loss) for loss in json.loads(file.metadata["losses"])],
                [int(size) for size in json.loads(file.metadata.get("sizes", "[]"))],
            )
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
        return history


def _tensor(array: object, like: Tensor) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=like.device)
