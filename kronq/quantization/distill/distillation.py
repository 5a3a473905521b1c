"""Distillation: compact codes tuned so that the adapter answers as it did, on the user's own text.

Squared error of ΔW measures changes of weights; what matters to users are changes of answers. Each
step rounds the latents, runs the rounded adapter beside the one as it was trained, and moves the
latents down the gradient of KL(as trained ‖ rounded) at the answers' tokens and between choices
(Hinton et al., arXiv 1503.02531). The price of a bit is steered so that the file keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kronq.calibration.torch_model import attach, load_model
from kronq.errors import ArgumentError, StrPath
from kronq.io.examples import Example, read_examples
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter, Recipe
from kronq.model.second_moments import LayerMoments
from kronq.quantization.config_checks import MAX_BPW
from kronq.quantization.distill.choice_rows import encode_questions
from kronq.quantization.distill.divergence import CHOICE_WEIGHT
from kronq.quantization.distill.latents import (
    Latents,
    build_adapter,
    coded_file_size,
    initialize_latents,
    round_latents,
)
from kronq.quantization.distill.optimizer import MatrixAdam
from kronq.quantization.distill.question_batches import draw_batches
from kronq.quantization.distill.student import Student
from kronq.quantization.file_size import most_bytes
from kronq.trellis.rounding import MULTIPLIER, RoundedLevels

_FINAL_RATE = 0.1
"""Share of the rate that is left at the end of a cosine."""
_STEERING_INTERVAL = 5
"""Steps between two corrections of the price of a bit."""
_TRIALS = 10
_CLOSE = 0.995
"""Share of the size from which the search for it ends."""


@dataclass(frozen=True)
class TuningSettings:
    """Settings of a distillation.

    Attributes:
        steps: Number of batches.
        rate: Levels that a latent of typical gradient moves in a step.
        seed: Seed of the order of examples: the same seed gives the same file on the same machine.
        choice_weight: Weight of the divergence between choices, against that of the tokens of the
            right answer.
    """

    steps: int = 60
    rate: float = 0.05
    seed: int = 0
    choice_weight: float = CHOICE_WEIGHT

    def rate_decay(self, step: int) -> float:
        """Returns the share of the rate at a step: a cosine from 1 to 0.1."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return _FINAL_RATE + (1 - _FINAL_RATE) * cosine


def tune(
    adapter: Adapter,
    model_dir: StrPath,
    data: StrPath | Sequence[Example],
    size: int,
    settings: TuningSettings | None = None,
    *,
    moments: Mapping[str, LayerMoments] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Adapter:
    """Quantizes to compact codes of ``size`` bytes that answer as the adapter does.

    Args:
        adapter: As it was trained.
        model_dir: Its base as a Hugging Face folder.
        data: A ``.jsonl`` file of examples or a text file, or examples. The tokens of choices
            count; of plain text all do.
        size: Bytes of the file, header included; never exceeded, and met within 1 %.
        settings: Steps, rate, seed and weights.
        moments: Second moments of every layer, for the codes that tuning starts from.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: Called with (steps done, steps in all).

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        MismatchError: The adapter does not belong to this model.
        ArgumentError: No such folder, no answers in the data, or the adapter does not fit the size.
    """
    settings = settings or TuningSettings()
    examples = read_examples(data) if isinstance(data, str | Path) else list(data)  # type: ignore[arg-type]
    model, tokenize = load_model(model_dir, device=device, purpose="tuning")
    questions = list(encode_questions(examples, tokenize))
    if not questions:
        raise ArgumentError("the data has no answer to tune to")
    size = min(size, most_bytes(adapter.parameters))
    recipe = Recipe("tuned", min(round(8 * size / adapter.parameters, 4), MAX_BPW))
    latents = initialize_latents(adapter, size, recipe, moments)
    multiplier, optimizer = MULTIPLIER, MatrixAdam(settings.rate)
    batches = draw_batches(questions, settings.seed)
    with attach(model, latents.adapter) as attached:
        student = Student(model, attached.factors, latents, questions, settings.choice_weight)
        for step in range(settings.steps):
            levels = round_latents(latents, multiplier)
            gradients = student.gradients(levels, next(batches))
            optimizer.step(latents.values, gradients, settings.rate_decay(step))
            if step % _STEERING_INTERVAL == _STEERING_INTERVAL - 1:
                excess = coded_file_size(latents, levels) / size
                multiplier *= float(np.clip(excess**1.5, 0.8, 1.25))
            if progress is not None:
                progress(step + 1, settings.steps)
    return build_adapter(latents, _round_to_size(latents, size, multiplier))


def _round_to_size(latents: Latents, size: int, multiplier: float) -> RoundedLevels:
    """Rounds the latents to levels that fill ``size``, by bisecting the price of a bit.

    Args:
        latents: The tuned latents.
        size: Bytes of the file.
        multiplier: First price of a bit, in squared steps.

    Raises:
        ArgumentError: No trial was small enough.
    """
    best: tuple[int, RoundedLevels] | None = None
    low = high = math.log(multiplier)
    widen = 0.05
    too_large = fits = False
    for _ in range(_TRIALS):
        bracketed = too_large and fits
        log_price = (low + high) / 2 if bracketed else (high if too_large else low)
        levels = round_latents(latents, math.exp(log_price))
        nbytes = coded_file_size(latents, levels)
        if nbytes <= size:
            if best is None or nbytes > best[0]:
                best = nbytes, levels
            if best[0] >= _CLOSE * size:
                break
            fits, high = True, log_price
            low = low if too_large else log_price - widen
        else:
            too_large, low = True, log_price
            high = high if fits else log_price + widen
        widen *= 2
    if best is None:
        raise ArgumentError("the tuned adapter does not fit", expected=f"{size:,} bytes")
    return best[1]
