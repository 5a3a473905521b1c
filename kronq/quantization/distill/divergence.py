"""Divergence of two adapters' answers: the loss of distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kronq.calibration.batches import TokenSequence, pad_sequences
from kronq.calibration.torch_model import answer_logits, to_torch_batch
from kronq.quantization.distill.choice_rows import ChoiceRows, Question, build_rows

if TYPE_CHECKING:
    import torch

CHOICE_WEIGHT = 4.0
"""Weight of the divergence between choices, against that of the tokens of the right answer."""
_TOLERANCE = 1e-3
"""Difference, relative to the largest value, of two computations of the same numbers."""


def predict_targets(
    model: Any, questions: Sequence[Question], *, share_prompts: bool
) -> torch.Tensor:
    """Predicts the tokens of all choices.

    Args:
        model: A model as ``load_model`` returns it.
        questions: At least one.
        share_prompts: Whether each prompt is read once for all of its choices; otherwise every
            choice is a text of its own.

    Returns:
        Log-probabilities [targets, vocabulary], in the order of ``build_rows`` either way.
    """
    device = str(next(model.parameters()).device)
    if share_prompts:
        logits = _shared_logits(model, build_rows(questions), device)
    else:
        texts = [
            TokenSequence(q.prompt + choice, len(q.prompt))
            for q in questions
            for choice in q.choices
        ]
        logits = answer_logits(model, to_torch_batch(pad_sequences(texts), device))[0]
    return logits.log_softmax(dim=-1)


def _shared_logits(model: Any, batch: ChoiceRows, device: str) -> torch.Tensor:
    import torch

    hidden = np.finfo(np.float32).min
    additive_mask = np.where(batch.mask, np.float32(0), np.float32(hidden))[:, None]
    ids, positions, sources, mask, index = (
        torch.from_numpy(x).to(device)
        for x in (batch.ids, batch.positions, batch.sources, additive_mask, batch.index)
    )
    logits = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=mask,
        use_cache=False,
        logits_to_keep=sources,
    ).logits
    if logits.shape[1] != len(sources):  # a model without that option returns all
        logits = logits[:, sources]
    targets: torch.Tensor = logits[index[0], index[1]]
    return targets


def can_share_prompts(model: Any, question: Question) -> bool:
    """Returns whether the model respects a mask and positions, which not every model does."""
    import torch

    with torch.no_grad():
        separate = predict_targets(model, [question], share_prompts=False)
        try:
            shared = predict_targets(model, [question], share_prompts=True)
        except (TypeError, ValueError, RuntimeError):
            return False
    return bool((shared - separate).abs().max() <= _TOLERANCE * separate.abs().max())


def divergence(
    reference: torch.Tensor,
    approximation: torch.Tensor,
    batch: ChoiceRows,
    choice_weight: float = CHOICE_WEIGHT,
) -> torch.Tensor:
    """Returns KL(reference ‖ approximation) of every token and of the choice, over all questions.

    A choice's score is the sum of its tokens' log-probabilities. KL of tokens hardly constrains
    unlikely tokens, of which choices mostly consist, so that scores would drift without their own.

    Args:
        reference: Log-probabilities of the adapter as it was trained [targets, vocabulary].
        approximation: Log-probabilities of the rounded adapter.
        batch: The questions.
        choice_weight: Weight of the divergence between choices.
    """
    import torch

    weight = torch.from_numpy(batch.weight).to(approximation.device)
    token_kl = (reference.exp() * (reference - approximation)).sum(dim=-1)
    target = torch.from_numpy(batch.targets).to(approximation.device)[:, None]
    choice = torch.from_numpy(batch.choice).to(approximation.device)

    def choice_log_probabilities(log_probabilities: torch.Tensor) -> list[torch.Tensor]:
        scores = torch.zeros(sum(batch.choice_counts), device=log_probabilities.device)
        scores = scores.index_add(0, choice, log_probabilities.gather(1, target)[:, 0])
        return [each.log_softmax(dim=0) for each in scores.split(list(batch.choice_counts))]

    choice_kl = torch.zeros((), device=approximation.device)
    for one, other in zip(
        choice_log_probabilities(reference), choice_log_probabilities(approximation), strict=True
    ):
        choice_kl = choice_kl + (one.exp() * (one - other)).sum()
    return (token_kl * weight).sum() + choice_weight * choice_kl
