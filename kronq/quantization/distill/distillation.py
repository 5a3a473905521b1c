"""A short distillation: compact codes that say what the adapter says, on the user's own text.

Squared error of ΔW counts what changes weights; the user loses what changes answers. Every step
rounds the latents, runs the adapter that this gives beside the one as it was trained, and moves the
latents down the gradient of KL(as trained ‖ rounded) at the answers' tokens and between choices
(Hinton et al., arXiv 1503.02531). The price of a bit is steered so that the file keeps its size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kronq.calibration.torch_factors import Factors
from kronq.calibration.torch_model import attach, load_model
from kronq.errors import ArgumentError, StrPath
from kronq.io.examples import Example, read_examples
from kronq.model.adapter import Adapter, Recipe
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments
from kronq.quantization.distill.choice_rows import Question, questions, rows
from kronq.quantization.distill.divergence import predicted, shares_prompts, unlike
from kronq.quantization.distill.latents import (
    Descent,
    Key,
    Latents,
    finished,
    in_bytes,
    meant,
    rounding,
    start,
    worths,
)
from kronq.trellis.rounding import WEIGHT, Rounded

if TYPE_CHECKING:
    import torch

STEPS = 60
RATE = 0.05
"""Levels that a latent moves in a step where its gradient is the usual one."""
_QUESTIONS = 24
_BATCH_TOKENS = 768
_LAST = 0.1
"""Of the rate, at the end of a cosine."""
_EVERY = 5
"""Steps between two looks at the size."""
_TRIALS = 10
_ENOUGH = 0.995

Progress = Callable[[int, int], None]


def tune(
    adapter: Adapter,
    model_dir: StrPath,
    data: StrPath | Sequence[Example],
    size: int,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    moments: Mapping[str, LayerMoments] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Adapter:
    """Compact codes of ``size`` bytes that answer as the adapter does.

    Args:
        adapter: As it was trained.
        model_dir: Its base as a Hugging Face folder.
        data: A ``.jsonl`` file of examples or a text file, or examples; the choices' tokens count,
            of plain text all.
        size: Of the file, header included; never more, and less by 1 % at the most.
        steps: How many batches.
        rate: How far latents move, in levels.
        moments: Which error counts for the codes that tuning starts from.
        seed: Of the order of examples: the same seed gives the same file on the same machine.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: Called with (steps done, steps in all).

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        MismatchError: The adapter does not belong to this model.
        KronqError: No such folder, no answers in the data, or the adapter does not fit the size.
    """
    examples = read_examples(data) if isinstance(data, str | Path) else list(data)  # type: ignore[arg-type]
    model, tokenize = load_model(model_dir, device=device, purpose="tuning")
    asked = list(questions(examples, tokenize))
    if not asked:
        raise ArgumentError("the data has no answer to tune to")
    recipe = Recipe("tuned", round(8 * size / adapter.parameters, 4))
    latents = start(adapter, size, recipe, moments)
    weight, descent = WEIGHT, Descent(rate)
    drawn_batches = _drawn(asked, seed)
    with attach(model, latents.adapter) as attached:
        student = _Student(model, attached.factors, latents, asked)
        for done in range(steps):
            found = rounding(latents, weight)
            gradients = student.gradients(found, next(drawn_batches))
            part = _LAST + (1 - _LAST) * (1 + math.cos(math.pi * done / steps)) / 2
            descent.move(latents.values, gradients, part)
            if done % _EVERY == _EVERY - 1:
                weight *= float(np.clip((in_bytes(latents, found) / size) ** 1.5, 0.8, 1.25))
            if progress is not None:
                progress(done + 1, steps)
    return finished(latents, _fitted(latents, size, weight))


def _drawn(asked: Sequence[Question], seed: int) -> Iterator[list[list[Question]]]:
    """Batches without end, every question once before any comes twice; their parts fit memory."""
    order = random.Random(seed)  # noqa: S311
    chosen: list[Question] = []
    while True:
        for question in order.sample(asked, len(asked)):
            chosen.append(question)
            if len(chosen) == _QUESTIONS or sum(q.tokens for q in chosen) >= _BATCH_TOKENS:
                yield _parts(chosen)
                chosen = []


def _parts(chosen: Sequence[Question]) -> list[list[Question]]:
    """By length, each of at most ``_BATCH_TOKENS`` positions, filling included."""
    parts: list[list[Question]] = []
    prompt = choices = 0
    for question in sorted(chosen, key=lambda q: len(q.prompt)):
        prompt = max(prompt, len(question.prompt))
        choices = max(choices, question.tokens - len(question.prompt))
        if not parts or (len(parts[-1]) + 1) * (prompt + choices) > _BATCH_TOKENS:
            parts.append([])
            prompt, choices = len(question.prompt), question.tokens - len(question.prompt)
        parts[-1].append(question)
    return parts


def _fitted(latents: Latents, size: int, weight: float) -> Rounded:
    """Levels that fill ``size``, by the price of a bit.

    Raises:
        KronqError: None was found that is small enough.
    """
    best: tuple[int, Rounded] | None = None
    low = high = math.log(weight)
    widen = 0.05
    over = under = False
    for _ in range(_TRIALS):
        at = (low + high) / 2 if over and under else (high if over else low)
        found = rounding(latents, math.exp(at))
        nbytes = in_bytes(latents, found)
        if nbytes <= size:
            if best is None or nbytes > best[0]:
                best = nbytes, found
            if best[0] >= _ENOUGH * size:
                break
            under, high = True, at
            low = low if over else at - widen
        else:
            over, low = True, at
            high = high if under else at + widen
        widen *= 2
    if best is None:
        raise ArgumentError("the tuned adapter does not fit", expected=f"{size:,} bytes")
    return best[1]


class _Student:
    """The adapter as it is rounded, beside itself as it was trained, on one model."""

    def __init__(
        self,
        model: Any,
        factors: dict[str, Factors],
        latents: Latents,
        asked: Sequence[Question],
    ) -> None:
        self._model = model
        self._factors = factors
        self._teacher = dict(factors)
        self._latents = latents
        self._worths = worths(latents)
        self._shared = shares_prompts(model, max(asked, key=lambda q: len(q.choices)))

    def gradients(self, found: Rounded, parts: Sequence[list[Question]]) -> dict[Key, F32]:
        """Of how unlike a question is answered, by latent, at the levels ``found``."""
        import torch

        leaves = self._leaves(found)
        count = sum(len(part) for part in parts)
        for part in parts:
            self._factors.update(self._teacher)
            with torch.no_grad():
                wanted = predicted(self._model, part, shared=self._shared)
            self._attach(leaves)
            said = predicted(self._model, part, shared=self._shared)
            (unlike(wanted, said, rows(part)) / count).backward()
        return {
            key: leaf.grad.cpu().numpy() * self._worths[key]
            for key, leaf in leaves.items()
            if leaf.grad is not None
        }

    def _leaves(self, found: Rounded) -> dict[Key, torch.Tensor]:
        import torch

        device = next(self._model.parameters()).device
        leaves = {}
        for key, worth in self._worths.items():
            layer, product, side = key
            value = meant(found.levels[layer][product][side], worth, self._latents)
            leaves[key] = torch.from_numpy(value).to(device).requires_grad_()
        return leaves

    def _attach(self, leaves: Mapping[Key, torch.Tensor]) -> None:
        for layer, name in enumerate(self._latents.adapter):
            mine = [leaf for key, leaf in leaves.items() if key[0] == layer]
            self._factors[name] = self._teacher[name].replaced(mine)
