"""Sequences of a batch as rows that a model reads at once: packed one after the other, or padded.

Padding is nearly half of a batch of questions. In a packed row there is none: the positions of each
sequence begin at 0, which transformers takes for another sequence, that attends to itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kronq.calibration.batches import TokenSequence, pad_sequences
from kronq.calibration.torch_model import model_device, to_torch_batch

ROW_TOKENS = 512
"""Tokens of a packed row at most, but for a longer sequence: attention takes their square."""
_TOLERANCE = 1e-4
"""Difference, relative to the largest logit, of two computations of the same numbers."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of tokens, and what is asked of them.

    Attributes:
        ids: int64 [rows, tokens].
        asked: bool [rows, tokens], the positions before an answer's tokens.
        wanted: int64 [answer tokens], the tokens behind these positions, row by row.
        layout: What else the model is given: ``position_ids`` or ``attention_mask``.
    """

    ids: Tensor
    asked: Tensor
    wanted: Tensor
    layout: Mapping[str, Tensor]

    @classmethod
    def of(cls, ids: Tensor, answers: Tensor, **layout: Tensor) -> Rows:
        """Returns rows in which ``answers``, bool [rows, tokens], are the tokens to predict."""
        asked = torch.cat([answers[:, 1:], answers.new_zeros(len(answers), 1)], dim=1)
        return cls(ids, asked, ids[answers], layout)


MakeRows = Callable[[Sequence[TokenSequence], str], Rows]


def pack_rows(sequences: Sequence[TokenSequence], device: str = "cpu") -> Rows:
    """Returns one row of all sequences, one after the other."""
    ids = [token for each in sequences for token in each.ids]
    positions = [place for each in sequences for place in range(len(each.ids))]
    answers = [place >= each.start for each in sequences for place in range(len(each.ids))]
    tensors = [torch.tensor([values], device=device) for values in (ids, answers, positions)]
    return Rows.of(*tensors[:2], position_ids=tensors[2])


def pad_rows(sequences: Sequence[TokenSequence], device: str = "cpu") -> Rows:
    """Returns a row for each sequence, padded on the right."""
    batch = to_torch_batch(pad_sequences(sequences), device)
    return Rows.of(batch.ids, batch.answers, attention_mask=batch.mask)


def split_batch(sequences: Sequence[TokenSequence]) -> list[list[TokenSequence]]:
    """Divides a batch by length into parts of at most ``ROW_TOKENS`` tokens, or one sequence."""
    parts: list[list[TokenSequence]] = []
    total = 0
    for sequence in sorted(sequences, key=lambda each: len(each.ids)):
        total += len(sequence.ids)
        if not parts or total > ROW_TOKENS:
            parts.append([])
            total = len(sequence.ids)
        parts[-1].append(sequence)
    return parts


def asked_logits(model: Any, rows: Rows) -> Tensor:
    """Returns the logits [answer tokens, vocabulary] at the positions that are asked.

    The output embedding is most of a small model's work. It reads the hidden states of these
    positions and no others; what a model does to its logits behind it stays.

    Args:
        model: A causal language model of transformers.
        rows: What it reads.
    """
    head = model.get_output_embeddings()

    def pick(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0][rows.asked][None], *given[1:])

    picked = None if head is None else head.register_forward_pre_hook(pick)
    try:
        logits = model(input_ids=rows.ids, **rows.layout, use_cache=False).logits
    finally:
        if picked is not None:
            picked.remove()
    found: Tensor = logits[rows.asked] if picked is None else logits[0]
    return found


def choose_rows(model: Any, sequences: Sequence[TokenSequence]) -> MakeRows:
    """Returns ``pack_rows`` if the model keeps packed sequences apart, otherwise ``pad_rows``.

    A recurrent model, or an old transformers, carries one sequence over into the next. So the
    shortest is read behind the longest, and has to have the logits that it has alone.

    Args:
        model: The model, in evaluation mode.
        sequences: At least one, each with a token of an answer.
    """
    longest, shortest = (pick(sequences, key=lambda s: len(s.ids)) for pick in (max, min))
    device = model_device(model)
    with torch.no_grad():
        alone = asked_logits(model, pad_rows([shortest], device))
        try:
            packed = asked_logits(model, pack_rows([longest, shortest], device))[-len(alone) :]
        except (TypeError, ValueError, RuntimeError):
            return pad_rows
    apart = bool((packed - alone).abs().max() <= _TOLERANCE * alone.abs().max())
    return pack_rows if apart else pad_rows
