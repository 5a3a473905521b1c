"""Two-sided second moments, in torch: of layer inputs, and of loss gradients at the outputs.

With x a layer's input at a position and g the loss's gradient at its output there, an error E
in ΔW raises the loss by ½·E[(gᵀ·E·x)²] for each position, to second order. The exact quadratic form
has one number for every pair of entries of E; as a Kronecker product it is tr(G·E·M·Eᵀ) with two
small matrices. K-FAC (Martens and Grosse, arXiv 1503.05671) takes M = E[x·xᵀ] and G = E[g·gᵀ], as
if x and g were independent. They are not: gradients are large near an answer. So each moment is
weighted by the other vector,

    M = E[‖g‖²·x·xᵀ],   G = E[‖x‖²·g·gᵀ] / E[‖x‖²·‖g‖²],

which is a step of the power iteration towards the best Kronecker product, from the identity
(Morwani et al., arXiv 2406.17748), and exact for errors that are alike in all outputs, or inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kronq.base.hf_folder import WEIGHT_FILES
from kronq.calibration.accumulate import SumOfBatch, accumulate
from kronq.calibration.batches import Batch, make_batches, sample_sequences
from kronq.calibration.layer_capture import LayerCapture
from kronq.calibration.moment_store import digest_adapter, digest_batches, open_store
from kronq.calibration.token_limit import LIMIT_TOKENS
from kronq.calibration.torch_model import attach, load_model, model_device
from kronq.errors import ArgumentError, StrPath, check_type
from kronq.io.cache import digest_files
from kronq.io.examples import Example, resolve_examples
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter, check_finite
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments, SecondMoments

if TYPE_CHECKING:
    import torch

_BATCH_TOKENS = 512
"""Positions of a batch; a backward pass holds all activations at once."""


def calibrate_two_sided(
    adapter: Adapter,
    hf_model: StrPath,
    data: StrPath | Sequence[Example],
    *,
    label_seed: int | None = 0,
    limit_tokens: int = LIMIT_TOKENS,
    cache: StrPath | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> SecondMoments:
    """Collects M and G of every adapted layer, with the adapter in place.

    The loss is the summed negative log-likelihood of the answers' tokens (of plain text: of all
    tokens). An error E adds ½ · tokens · tr(G·E·M·Eᵀ) to it, by which layers can be compared.
    Formulas and sources: ``kronq/calibration/two_sided.py``.

    Args:
        adapter: The adapter as it was trained.
        hf_model: The base as a Hugging Face folder.
        data: A ``.jsonl`` file of examples or a text file, or examples.
        label_seed: Seed of labels sampled from the adapted model's own predictions, which makes
            E[g·gᵀ] the Fisher information: the sensitivity of its predictions. None takes the
            data's own labels, the empirical Fisher.
        limit_tokens: Tokens of the data at most, sampled from all over it.
        cache: Folder for the moments, as for ``calibrate``; these belong to this adapter alone.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: Called with (tokens done, tokens in all).

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        MismatchError: The adapter does not belong to this model.
        KronqError: There is no such folder, no text, or no answer in it.
    """
    check_type("adapter", adapter, Adapter)
    check_finite(adapter)
    examples, source = resolve_examples(data)
    model, tokenize = load_model(hf_model, device=device, purpose="output gradients")
    sequences = sample_sequences(examples, tokenize, limit_tokens)
    answered = [sequence for sequence in sequences if sequence.start < len(sequence.ids)]
    if not answered:
        raise ArgumentError("the data has no answer to take a gradient of")
    batches = make_batches(answered, _BATCH_TOKENS)
    store = open_store(
        cache,
        f"weighted gradients, labels {label_seed}",
        digest_files(_model_files(Path(hf_model))),
        digest_adapter(adapter),
        digest_batches(batches),
    )
    with attach(model, adapter) as attached, LayerCapture(model, attached.modules) as capture:
        widths = {f"in {n}": layer.shape[1] for n, layer in attached.factors.items()}
        widths |= {f"out {n}": layer.shape[0] for n, layer in attached.factors.items()}
        start_pass = _pass_starter(capture, batches, label_seed)
        moments = accumulate(
            store, widths, batches, start_pass, finish=_scale_moment, progress=progress
        )
    layers = {n: LayerMoments(moments[f"in {n}"], moments[f"out {n}"]) for n in adapter}
    tokens = sum(batch.tokens for batch in batches)
    return SecondMoments(layers, tokens, source, store.folder.name, attached.base)


def _pass_starter(
    capture: LayerCapture, batches: Sequence[Batch], label_seed: int | None
) -> Callable[[Collection[str]], SumOfBatch]:
    """Returns a function that starts a pass.

    Every batch has a seed of its own, so that another pass or a resumed run samples equal labels.
    """
    seeds: dict[int, int | None] = {
        id(batch): None if label_seed is None else label_seed + 1_000_003 * i
        for i, batch in enumerate(batches)
    }
    return lambda names: lambda batch: _sum_batch(capture, batch, names, seeds[id(batch)])


def _scale_moment(name: str, moment: F32) -> F32:
    """Scales G to a trace of 1: both traces are E[‖x‖²·‖g‖²], which counts once."""
    trace = np.trace(moment, dtype=np.float64)
    return moment / np.float32(trace) if name.startswith("out ") and trace > 0 else moment


def _sum_batch(
    capture: LayerCapture, batch: Batch, names: Collection[str], seed: int | None
) -> Iterator[tuple[str, F32]]:
    """Runs one batch forward and backward; without a seed with the data's own labels."""
    import torch

    logits, labels = capture.answer_logits(batch)
    log_p = logits.float().log_softmax(dim=-1)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        sampled = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator)
        labels = sampled[:, 0].to(labels.device)
    loss = -log_p.gather(1, labels[:, None]).sum()
    layers = list(dict.fromkeys(name.split(" ", 1)[1] for name in names))
    gradients = torch.autograd.grad(loss, [capture.outputs[layer] for layer in layers])
    real = torch.from_numpy(batch.mask == 1).to(model_device(capture.model))
    for layer, gradient in zip(layers, gradients, strict=True):
        x, g = capture.inputs[layer].detach()[real].float(), gradient[real].float()
        for name, rows, other in ((f"in {layer}", x, g), (f"out {layer}", g, x)):
            if name in names:
                yield name, _gram(rows * other.norm(dim=1, keepdim=True))
    capture.clear()


def _gram(rows: torch.Tensor) -> F32:
    """Returns Σ x·xᵀ over rows [n, d]; on the CPU by numpy, which exploits the symmetry."""
    if rows.is_cuda:
        gram: F32 = (rows.T @ rows).cpu().numpy()
        return gram
    x: F32 = rows.numpy()
    return x.T @ x


def _model_files(folder: Path) -> list[Path]:
    """Returns the files that the model's numbers depend on."""
    weights = (file for pattern in WEIGHT_FILES for file in folder.glob(pattern))
    return [folder / "config.json", *sorted(weights)]
