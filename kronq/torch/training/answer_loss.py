"""Loss at the answers' tokens, whose positions alone go through the output embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kronq.calibration.batches import Batch
from kronq.calibration.torch_model import model_device, to_torch_batch


def answer_loss(model: Any, batch: Batch) -> Tensor:
    """Returns the mean negative log-likelihood of a batch's answer tokens.

    The output embedding is most of a small model's work. It reads the hidden states before the
    answers' tokens and no others; what a model does to its logits behind it stays.

    Args:
        model: A causal language model of transformers.
        batch: The batch.
    """
    tensors = to_torch_batch(batch, model_device(model))
    asked = tensors.answers[:, 1:]
    asked = torch.cat([asked, asked.new_zeros(asked.shape[0], 1)], dim=1)
    head = model.get_output_embeddings()

    def pick(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0][asked][None], *given[1:])

    picked = None if head is None else head.register_forward_pre_hook(pick)
    try:
        logits = model(input_ids=tensors.ids, attention_mask=tensors.mask, use_cache=False).logits
    finally:
        if picked is not None:
            picked.remove()
    rows = logits[asked] if picked is None else logits[0]
    wanted = tensors.ids[:, 1:][tensors.answers[:, 1:]]
    loss: Tensor = torch.nn.functional.cross_entropy(rows.float(), wanted)
    return loss
