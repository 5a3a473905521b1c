"""From options to a quantized adapter, for ``kronq quantize``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from kronq.cli import shared
from kronq.cli.calibrating import Calibrating
from kronq.errors import KronqError
from kronq.model.adapter import Adapter
from kronq.model.second_moments import Moments
from kronq.quantization import quantize
from kronq.quantization.methods import SIZED, pick


@dataclass(frozen=True)
class Making:
    """What is asked of the codes; see the options of ``kronq quantize``."""

    method: str
    bits: float | None
    size: int | None
    max_error: float | None
    refit: Any
    axis: Any
    group_size: int | None
    a_bits: int
    layers: Mapping[str, int]
    steps: int | None = None
    seed: int | None = None

    @property
    def uniform(self) -> bool:
        """Whether something is asked for that only ``balanced`` and ``rtn`` have."""
        own = (self.axis, self.group_size, self.a_bits, dict(self.layers))
        return own != ("component", None, 16, {})

    @property
    def target(self) -> float | None:
        """The error that the file is to have; None where it is a check, or nothing."""
        alone = self.bits is None and self.size is None and not self.uniform
        sizable = self.method in ("auto", *SIZED)
        return self.max_error if alone and sizable else None


def check_making(asked: Making, calibrating: Calibrating) -> None:
    """Refuses what cannot be done, before any work begins.

    Raises:
        UsageError: Two budgets, or an option that this method does not have.
        KronqError: Tuning lacks its text or its model.
    """
    if asked.bits is not None and asked.size is not None:
        raise click.UsageError("give --bits or --size")
    if asked.method == "tuned":
        if asked.uniform or asked.max_error is not None:
            raise click.UsageError("--method tuned fills --size or --bits, and has no other budget")
        if asked.bits is None and asked.size is None:
            raise click.UsageError("--method tuned needs --size or --bits")
        if calibrating.calibration is None or calibrating.hf_model is None:
            raise KronqError(
                "--method tuned distils on text, with gradients",
                hint="add --calibration FILE and --hf-model DIR, the base as a Hugging Face folder",
            )
        return
    if asked.steps is not None or asked.seed is not None:
        raise click.UsageError("--steps and --seed need --method tuned")
    sized = asked.size is not None or asked.target is not None
    method = pick(asked.method, asked.bits, sized=sized, uniform=asked.uniform)
    if asked.size is not None and method not in SIZED:
        raise click.UsageError(f"--size needs --method {' or '.join(SIZED)}, not {method}")


def make(
    adapter: Adapter, asked: Making, calibrating: Calibrating, moments: Moments | None
) -> Adapter:
    """The quantized adapter, with a bar on stderr."""
    if asked.method == "tuned":
        return _tuned(adapter, asked, calibrating, moments)
    bits = None if asked.target is not None else asked.bits
    with shared.progress_bar("quantizing") as progress:
        return quantize(
            adapter,
            bits,
            method=asked.method,  # type: ignore[arg-type]
            size=asked.size,
            max_error=asked.target,
            axis=asked.axis,
            group_size=asked.group_size,
            a_bits=asked.a_bits,
            layer_bits=asked.layers,
            moments=moments,
            refit=asked.refit,
            progress=progress,
        )


def _tuned(
    adapter: Adapter, asked: Making, calibrating: Calibrating, moments: Moments | None
) -> Adapter:
    from kronq.quantization.distill import tune
    from kronq.quantization.distill.distillation import STEPS

    size = asked.size or int((asked.bits or 0) * adapter.parameters / 8)
    with shared.progress_bar("tuning") as progress:
        return tune(
            adapter,
            str(calibrating.hf_model),
            str(calibrating.calibration),
            size,
            steps=asked.steps or STEPS,
            moments=moments,
            seed=asked.seed or 0,
            progress=progress,
        )
