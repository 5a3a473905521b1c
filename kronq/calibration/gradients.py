"""Both sides of every layer, in torch: what it reads, and what the loss wants of its output.

With x what a layer reads at a position and g the loss's gradient at its output there, an error E
in ΔW raises the loss by ½·E[(gᵀ·E·x)²] for each position, to second order. That is one number for
every pair of entries of E; as a Kronecker product it is tr(G·E·M·Eᵀ) with two small matrices. K-FAC
(Martens and Grosse, arXiv 1503.05671) takes M = E[x·xᵀ] and G = E[g·gᵀ], as if x and g were
independent. They are not: gradients are large where an answer is near. So each side is weighed by
the other,

    M = E[‖g‖²·x·xᵀ],   G = E[‖x‖²·g·gᵀ] / E[‖x‖²·‖g‖²],

which is a step of the power iteration towards the best Kronecker product, from the identity
(Morwani et al., arXiv 2406.17748), and exact for errors that are alike in all outputs, or inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from kronq.base.hf_folder import WEIGHT_FILES
from kronq.calibration.accumulate import MEMORY, Progress, Step, accumulate
from kronq.calibration.batches import LIMIT_TOKENS, Batch, batches, choose
from kronq.calibration.store import digest_adapter, digest_batches, open_store
from kronq.calibration.torch_factors import Factors
from kronq.calibration.torch_model import answer_logits, attach, load_model, to_torch
from kronq.errors import ArgumentError, StrPath, UnsupportedError
from kronq.io.cache import digest_files
from kronq.io.examples import Example, read_examples
from kronq.model.adapter import Adapter
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments, SecondMoments

if TYPE_CHECKING:
    import torch

Labels = Literal["model", "data"]

_BATCH_TOKENS = 512
"""Positions of a batch: all activations of a backward pass are held at once."""

_WIDEST = 32_768
"""Of a layer: its moments take 4 bytes times the square."""


def two_sided(
    adapter: Adapter,
    model_dir: StrPath,
    data: StrPath | Sequence[Example],
    *,
    labels: Labels = "model",
    limit_tokens: int = LIMIT_TOKENS,
    seed: int = 0,
    cache: StrPath | None = None,
    device: str = "auto",
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> SecondMoments:
    """M and G of every adapted layer, with the adapter in place; see this file's head.

    The loss is the summed negative log-likelihood of the answers' tokens (of plain text: of all
    tokens). ½ · tokens · tr(G·E·M·Eᵀ) is what E adds to it, by which layers can be compared.

    Args:
        adapter: As it was trained.
        model_dir: The base as a Hugging Face folder.
        data: A ``.jsonl`` file of examples or a text file, or examples.
        labels: Whose tokens the loss is of. ``model``: drawn from what the adapted model itself
            predicts, which makes E[g·gᵀ] the Fisher information: what keeping its predictions
            needs. ``data``: the data's own, the empirical Fisher.
        limit_tokens: How much of the data at most, drawn from all over it.
        seed: Of the draw of labels.
        cache: As for ``calibrate``; these moments are this adapter's alone.
        device: ``auto``, ``cpu`` or ``cuda``.
        memory: Bytes for the sums of one pass over the data; less means more passes.
        progress: Called with (tokens done, tokens in all).

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        MismatchError: The adapter does not belong to this model.
        KronqError: No such folder, no text, or no answer in it.
    """
    if labels not in get_args(Labels):
        raise ArgumentError("no such labels", found=labels, expected=" or ".join(get_args(Labels)))
    examples = read_examples(data) if isinstance(data, str | Path) else list(data)  # type: ignore[arg-type]
    model, tokenize = load_model(model_dir, device=device, purpose="output gradients")
    chosen = [s for s in choose(examples, tokenize, limit_tokens) if s.start < len(s.ids)]
    if not chosen:
        raise ArgumentError("the data has no answer to take a gradient of")
    made = batches(chosen, _BATCH_TOKENS)
    store = open_store(
        cache,
        f"weighted gradients, {labels} {seed}",
        digest_files(_model_files(Path(model_dir))),
        digest_adapter(adapter),
        digest_batches(made),
    )
    with attach(model, adapter) as attached, _Seen(model, attached.modules) as seen:
        widths = {f"in {n}": layer.shape[1] for n, layer in attached.factors.items()}
        widths |= {f"out {n}": layer.shape[0] for n, layer in attached.factors.items()}
        seeds = {id(batch): seed + 1_000_003 * i for i, batch in enumerate(made)}

        def step_of(names: Collection[str]) -> Step:
            # By the batch's number, so that a resumed run draws the same labels.
            return lambda batch: _step(
                model, seen, batch, names, seeds[id(batch)] if labels == "model" else None
            )

        found = accumulate(
            store, widths, made, step_of, finish=_scaled, memory=memory, progress=progress
        )
    layers = {name: LayerMoments(found[f"in {name}"], found[f"out {name}"]) for name in adapter}
    source = Path(data).name if isinstance(data, str | Path) else None
    return SecondMoments(layers, sum(batch.tokens for batch in made), source)


def _check_sizes(factors: Mapping[str, Factors]) -> None:
    """Refuses what would take gigabytes a layer: an output layer has a whole vocabulary."""
    for name, layer in factors.items():
        if max(layer.shape) > _WIDEST:
            raise UnsupportedError(
                "the layer is too wide for moments of its outputs",
                layer=name,
                found=list(layer.shape),
                expected=f"at most {_WIDEST:,}",
                hint="calibrate its inputs alone, through an ONNX base",
            )


class _Seen:
    """Inputs and outputs of the last forward pass, by layer, while the block runs."""

    def __init__(self, model: Any, modules: Mapping[str, torch.nn.Module]) -> None:
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self._model = model
        self.modules = modules
        self._handles: list[Any] = []

    def __enter__(self) -> _Seen:
        for layer, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._hook(layer)))
        # All weights are frozen: the embedding's output is where gradients start to be kept.
        embedding = self._model.get_input_embeddings()
        self._handles.append(embedding.register_forward_hook(lambda _, __, y: y.requires_grad_()))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.clear()

    def clear(self) -> None:
        self.inputs.clear()
        self.outputs.clear()

    def _hook(self, layer: str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
            if layer in self.inputs:
                raise UnsupportedError("the model uses the layer more than once", layer=layer)
            self.inputs[layer], self.outputs[layer] = args[0], output

        return hook


def _scaled(name: str, moment: F32) -> F32:
    """G has a trace of 1: E[‖x‖²·‖g‖²] is the trace of both, and is to count once."""
    trace = np.trace(moment, dtype=np.float64)
    return moment / np.float32(trace) if name.startswith("out ") and trace > 0 else moment


def _logits(model: Any, seen: _Seen, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``answer_logits``, with every adapted layer at every position.

    Raises:
        UnsupportedError: A layer reads only some of the tokens, as experts do.
    """
    adapted = any(m is model.get_output_embeddings() for m in seen.modules.values())
    found = answer_logits(model, to_torch(batch, _device(model)), everywhere=adapted)
    for layer in seen.modules:
        x = seen.inputs.get(layer)
        if x is None or x.shape[:2] != batch.ids.shape:
            raise UnsupportedError(
                "the layer does not read every token",
                layer=layer,
                found=None if x is None else list(x.shape),
                hint="calibrate its inputs alone, through an ONNX base",
            )
    return found


def _step(
    model: Any, seen: _Seen, batch: Batch, names: Collection[str], seed: int | None
) -> Iterator[tuple[str, F32]]:
    """Forward and backward over one batch; without a seed for the data's own labels."""
    import torch

    logits, truth = _logits(model, seen, batch)
    log_p = logits.float().log_softmax(dim=-1)
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=draw)
        truth = drawn[:, 0].to(truth.device)
    loss = -log_p.gather(1, truth[:, None]).sum()
    layers = list(dict.fromkeys(name.split(" ", 1)[1] for name in names))
    gradients = torch.autograd.grad(loss, [seen.outputs[layer] for layer in layers])
    real = torch.from_numpy(batch.mask == 1).to(_device(model))
    for layer, gradient in zip(layers, gradients, strict=True):
        x, g = seen.inputs[layer].detach()[real].float(), gradient[real].float()
        for name, rows, other in ((f"in {layer}", x, g), (f"out {layer}", g, x)):
            if name in names:
                yield name, _gram(rows * other.norm(dim=1, keepdim=True))
    seen.clear()


def _gram(rows: torch.Tensor) -> F32:
    """Σ x·xᵀ over rows [n, d]; on the CPU by numpy, which knows that it is symmetric."""
    if rows.is_cuda:
        found: F32 = (rows.T @ rows).cpu().numpy()
        return found
    x: F32 = rows.numpy()
    return x.T @ x


def _device(model: Any) -> str:
    return str(next(model.parameters()).device)


def _model_files(folder: Path) -> list[Path]:
    """What the model's numbers depend on."""
    weights = (file for pattern in WEIGHT_FILES for file in folder.glob(pattern))
    return [folder / "config.json", *sorted(weights)]
