"""How unlike two adapters answer: what tuning makes small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kronq.calibration.batches import Tokens, pad
from kronq.calibration.torch_model import answer_logits, to_torch
from kronq.quantization.distill.choice_rows import Question, Rows, rows

if TYPE_CHECKING:
    import torch

ORDER = 4.0
"""What a nat between the choices weighs, against one between the tokens of the right answer."""
_SAME = 1e-3
"""Of the largest logit: two ways of computing the same."""


def predicted(model: Any, asked: Sequence[Question], *, shared: bool) -> torch.Tensor:
    """Log-probabilities [targets, vocabulary] where the tokens of all choices come next.

    Args:
        model: As ``load_model`` gives it.
        asked: Some questions.
        shared: Every prompt once, with all its choices behind it; otherwise every choice is a text
            of its own. The targets are in the order of ``rows``, either way.
    """
    device = str(next(model.parameters()).device)
    if shared:
        logits = _at_once(model, rows(asked), device)
    else:
        texts = [Tokens(q.prompt + choice, len(q.prompt)) for q in asked for choice in q.choices]
        logits = answer_logits(model, to_torch(pad(texts), device))[0]
    return logits.log_softmax(dim=-1)


def _at_once(model: Any, batch: Rows, device: str) -> torch.Tensor:
    import torch

    hidden = float(np.finfo(np.float32).min)
    mask = np.where(batch.seen, np.float32(0), np.float32(hidden))[:, None]
    ids, positions, kept, seen, at = (
        torch.from_numpy(x).to(device)
        for x in (batch.ids, batch.positions, batch.kept, mask, batch.at)
    )
    logits = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=seen,
        use_cache=False,
        logits_to_keep=kept,
    ).logits
    if logits.shape[1] != len(kept):  # a model that knows no such option gives all
        logits = logits[:, kept]
    found: torch.Tensor = logits[at[0], at[1]]
    return found


def shares_prompts(model: Any, question: Question) -> bool:
    """Whether the model keeps to a mask and positions that are given, as not every one does."""
    import torch

    with torch.no_grad():
        apart = predicted(model, [question], shared=False)
        try:
            together = predicted(model, [question], shared=True)
        except (TypeError, ValueError, RuntimeError):
            return False
    return bool((together - apart).abs().max() <= _SAME * apart.abs().max())


def unlike(wanted: torch.Tensor, said: torch.Tensor, batch: Rows) -> torch.Tensor:
    """KL(wanted ‖ said), over all questions: of each token, and of which choice comes first.

    A choice's score is the sum of its tokens' log-probabilities. What a token's KL leaves free are
    tokens that are unlikely; and most of a choice's are, so that its score would drift.

    Args:
        wanted: Of the adapter as it was trained, as ``predicted`` gives it.
        said: Of the other one.
        batch: What was asked.
    """
    import torch

    weight = torch.from_numpy(batch.weight).to(said.device)
    tokens = ((wanted.exp() * (wanted - said)).sum(dim=-1) * weight).sum()
    target = torch.from_numpy(batch.targets).to(said.device)[:, None]
    choice = torch.from_numpy(batch.choice).to(said.device)

    def scores(of: torch.Tensor) -> tuple[torch.Tensor, ...]:
        each = torch.zeros(sum(batch.sizes), device=of.device)
        found = each.index_add(0, choice, of.gather(1, target)[:, 0])
        return tuple(part.log_softmax(dim=0) for part in found.split(list(batch.sizes)))

    order = torch.zeros((), device=said.device)
    for one, other in zip(scores(wanted), scores(said), strict=True):
        order = order + (one.exp() * (one - other)).sum()
    return tokens + ORDER * order
