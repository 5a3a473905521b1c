"""The rounded adapter (student) beside the one as it was trained (teacher), on one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kronq.calibration.torch_factors import TorchFactors
from kronq.model.matrix import F32
from kronq.quantization.distill.choice_rows import Question, build_rows
from kronq.quantization.distill.divergence import can_share_prompts, divergence, predict_targets
from kronq.quantization.distill.latents import Latents, matrix_scales, reconstruct
from kronq.trellis.rounding import RoundedLevels
from kronq.trellis.stream_layout import MatrixKey

if TYPE_CHECKING:
    import torch


class Student:
    """Gradients of the divergence between teacher and student.

    Args:
        model: A model with the teacher's factors attached.
        factors: The attached factors by layer, which are replaced in place.
        latents: The latents that are tuned.
        questions: What will be asked; the one of most choices tells whether prompts are shared.
        choice_weight: Weight of the divergence between choices.
    """

    def __init__(
        self,
        model: Any,
        factors: dict[str, TorchFactors],
        latents: Latents,
        questions: Sequence[Question],
        choice_weight: float,
    ) -> None:
        self._model = model
        self._factors = factors
        self._teacher = dict(factors)
        self._latents = latents
        self._scales = matrix_scales(latents)
        self._choice_weight = choice_weight
        self._share_prompts = can_share_prompts(model, max(questions, key=lambda q: len(q.choices)))

    def gradients(
        self, levels: RoundedLevels, parts: Sequence[Sequence[Question]]
    ) -> dict[MatrixKey, F32]:
        """Returns the gradients by latent of the mean divergence of a question.

        Args:
            levels: The latents, rounded.
            parts: Questions, in parts that are read at once.
        """
        import torch

        leaves = self._leaves(levels)
        count = sum(len(part) for part in parts)
        for part in parts:
            self._factors.update(self._teacher)
            with torch.no_grad():
                reference = predict_targets(self._model, part, share_prompts=self._share_prompts)
            self._attach(leaves)
            approximation = predict_targets(self._model, part, share_prompts=self._share_prompts)
            loss = divergence(reference, approximation, build_rows(part), self._choice_weight)
            (loss / count).backward()
        return {
            key: leaf.grad.cpu().numpy() * self._scales[key]
            for key, leaf in leaves.items()
            if leaf.grad is not None
        }

    def _leaves(self, levels: RoundedLevels) -> dict[MatrixKey, torch.Tensor]:
        import torch

        device = next(self._model.parameters()).device
        leaves = {}
        for key, scale in self._scales.items():
            value = reconstruct(levels.levels.matrix(key), scale, self._latents)
            leaves[key] = torch.from_numpy(value).to(device).requires_grad_()
        return leaves

    def _attach(self, leaves: Mapping[MatrixKey, torch.Tensor]) -> None:
        for layer, name in enumerate(self._latents.adapter):
            matrices = [leaf for key, leaf in leaves.items() if key[0] == layer]
            self._factors[name] = self._teacher[name].replaced(matrices)
