"""State of a training in one file, from which it goes on to the same result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kronq.errors import FormatError
from kronq.io.array_checksum import CHECKSUM, array_checksum
from kronq.io.files import write_file
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensor_writer import tensor_bytes

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of each parameter."""
_LARGEST = 1e30
"""A loss, or a number of bytes, is below it."""
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
        told[CHECKSUM] = array_checksum(tensors, told)
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
        arrays = {name: file.array(name) for name in file.entries}
        told = file.metadata
        if told.get(CHECKSUM) != array_checksum(arrays, told):
            raise self._damaged("the checksum differs", "checksum")
        if _shapes(arrays) != _shapes(_expected(parameters)):
            raise self._damaged("parameters of other names, shapes or types", "tensors")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise self._damaged("values that are not finite", "not-finite")
        if any(arrays[f"{n}.{m}"].min() < 0 for n in parameters for m in _MOMENTS[1:]):
            raise self._damaged("squares or steps below zero", "format")
        history = History(self._numbers(told, "losses"), [*map(int, self._numbers(told, "sizes"))])
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(_tensor(arrays[name], parameter))
                moments = {m: _tensor(arrays[f"{name}.{m}"], parameter) for m in _MOMENTS}
                optimizer.state[parameter] = moments | {"step": moments["step"].cpu()}
        return history

    def _numbers(self, told: Mapping[str, str], key: str) -> list[float]:
        try:
            numbers = json.loads(told[key])
        except (KeyError, ValueError, RecursionError):
            numbers = None
        if isinstance(numbers, list) and all(
            isinstance(n, int | float) and abs(n) < _LARGEST for n in numbers
        ):
            return numbers
        raise self._damaged(f"no list of numbers for its {key}", "format")

    def _damaged(self, found: str, code: str) -> FormatError:
        return FormatError(
            "a damaged checkpoint", path=self.path, found=found, hint="delete it", code=code
        )


def _expected(parameters: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Returns arrays of the shapes of a checkpoint of parameters, without memory of their own."""
    zero = np.zeros((), np.float32)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in parameters.items():
        shapes |= dict.fromkeys((name, *(f"{name}.{m}" for m in _MOMENTS[:2])), parameter.shape)
        shapes[f"{name}.step"] = ()
    return {name: np.broadcast_to(zero, shape) for name, shape in shapes.items()}


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, array.dtype.str) for name, array in arrays.items()}


def _tensor(array: NDArray[Any], like: Tensor) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=like.device)
