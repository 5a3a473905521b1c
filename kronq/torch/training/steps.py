"""The steps of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kronq.calibration.batches import TokenSequence
from kronq.calibration.torch_model import model_device
from kronq.errors import KronqError
from kronq.torch.training.checkpoint import INTERVAL, CheckpointFile, History
from kronq.torch.training.codes import CodesInLoop
from kronq.torch.training.rows import MakeRows, asked_logits, split_batch
from kronq.torch.training.settings import TrainingSettings
from kronq.torch.training.text_batches import TextBatches

Follow = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss)."""


def run_steps(
    model: Any,
    batches: TextBatches,
    make_rows: MakeRows,
    settings: TrainingSettings,
    checkpoint: CheckpointFile,
    follow: Follow | None = None,
) -> tuple[History, int]:
    """Trains the parameters that need gradients, from the checkpoint on where there is one.

    A step depends on the state before it, the settings and its own number alone: the batch, the
    rate and dropout's seed follow from that. So a training that was stopped ends with the bits of
    one that was not.

    Returns:
        The loss and bytes of each step, and the step that it went on from.

    Raises:
        KronqError: The loss is no longer a number, or the adapter does not fit the target.
        FormatError: The checkpoint is damaged.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(_rated(trained, settings), lr=0.0, weight_decay=0.0)
    codes = CodesInLoop.of(model, settings)
    history = checkpoint.load(trained, optimizer)
    losses, resumed = history.losses, len(history.losses)
    model.train()
    for step in range(resumed, settings.steps):
        torch.manual_seed(settings.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * settings.rate_at(step)
        if codes is None:
            losses.append(add_gradients(model, batches[step], make_rows))
        else:
            with codes.rounded(step) as nbytes:
                losses.append(add_gradients(model, batches[step], make_rows))
            history.sizes.append(nbytes)
        if not math.isfinite(losses[-1]):
            raise KronqError(
                "the loss is not a number",
                found=f"{losses[-1]} at step {step + 1}",
                hint="a smaller {rate}",
            )
        torch.nn.utils.clip_grad_norm_([*trained.values()], settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        if follow is not None:
            follow(step + 1, settings.steps, losses[-1])
        if (step + 1) % INTERVAL == 0 and step + 1 < settings.steps:
            checkpoint.save(trained, optimizer, history)
    return history, resumed


def _rated(trained: dict[str, Any], settings: TrainingSettings) -> list[dict[str, Any]]:
    """Returns the parameters in groups of one rate each: ``factor`` times that of the settings."""
    groups: dict[float, list[Any]] = {}
    for name, parameter in trained.items():
        groups.setdefault(settings.rate_factor(name), []).append(parameter)
    return [{"params": params, "factor": factor} for factor, params in groups.items()]


def add_gradients(model: Any, batch: Sequence[TokenSequence], make_rows: MakeRows) -> float:
    """Adds the gradients of a batch's loss, and returns the loss.

    The loss is the mean negative log-likelihood of the answers' tokens. Each part's activations are
    let go before the next part is read.
    """
    device, loss = model_device(model), 0.0
    count = sum(len(each.ids) - each.start for each in batch)
    for part in split_batch(batch):
        rows = make_rows(part, device)
        logits = asked_logits(model, rows).float()
        share = torch.nn.functional.cross_entropy(logits, rows.wanted, reduction="sum") / count
        share.backward()
        loss += share.item()
    return loss
