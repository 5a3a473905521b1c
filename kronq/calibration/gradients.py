"""Both sides of every layer, in torch: what it reads, and what the loss wants of its output.

K-FAC (Martens and Grosse, arXiv 1503.05671) takes the curvature of the loss in ΔW for a Kronecker
product of M = E[x·xᵀ] of the layer's inputs and G = E[g·gᵀ] of the loss's gradients at its output,
so that an error E in ΔW costs ½·tr(G·E·M·Eᵀ) for each position. Sequences count position by
position ("expand" in Eschenhagen et al., arXiv 2311.00636).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from kronq.adapter import Adapter
from kronq.calibration.accumulate import MEMORY, Progress, Step, accumulate
from kronq.calibration.batches import LIMIT_TOKENS, Batch, batches, choose
from kronq.calibration.store import digest_adapter, digest_batches, digest_files, open_store
from kronq.calibration.torch_factors import Factors
from kronq.calibration.torch_model import answer_logits, attach, load_model, to_torch
from kronq.errors import KronqError, StrPath, UnsupportedError
from kronq.matrix import F32
from kronq.moments import Moment, Moments
from kronq.runtime.base import WEIGHT_FILES
from kronq.texts import Example, read_examples

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
) -> Moments:
    """E[x·xᵀ] and E[g·gᵀ] of every adapted layer, with the adapter in place.

    g is the gradient, at the layer's output, of the summed negative log-likelihood of the answers'
    tokens (of plain text: of all tokens). Both are means over all positions.

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
        raise KronqError("no such labels", found=labels, expected=" or ".join(get_args(Labels)))
    examples = read_examples(data) if isinstance(data, str | Path) else list(data)  # type: ignore[arg-type]
    model, tokenize = load_model(model_dir, device=device, purpose="output gradients")
    chosen = [s for s in choose(examples, tokenize, limit_tokens) if s.start < len(s.ids)]
    if not chosen:
        raise KronqError("the data has no answer to take a gradient of")
    made = batches(chosen, _BATCH_TOKENS)
    store = open_store(
        cache,
        f"two-sided {labels} {seed}",
        digest_files(_model_files(Path(model_dir))),
        digest_adapter(adapter),
        digest_batches(made),
    )
    with attach(model, adapter) as attached, _Seen(model, attached.modules) as seen:
        readers = _readers(model, seen, made[0])
        _check_sizes(attached.factors)
        widths = {f"in {readers[n]}": d.shape[1] for n, d in attached.factors.items()}
        widths |= {f"out {n}": d.shape[0] for n, d in attached.factors.items()}

        seeds = {id(batch): seed + 1_000_003 * i for i, batch in enumerate(made)}

        def step_of(names: Collection[str]) -> Step:
            # By the batch's number, so that a resumed run draws the same labels.
            return lambda batch: _step(
                model, seen, batch, names, seeds[id(batch)] if labels == "model" else None
            )

        found = accumulate(store, widths, made, step_of, memory=memory, progress=progress)
    layers = {n: Moment(found[f"in {readers[n]}"], found[f"out {n}"]) for n in adapter}
    source = Path(data).name if isinstance(data, str | Path) else None
    return Moments(layers, sum(batch.tokens for batch in made), source)


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


def _readers(model: Any, seen: _Seen, batch: Batch) -> dict[str, str]:
    """Layer → the first layer that reads the very same input, as q, k and v do."""
    one = Batch(batch.ids[:1], batch.mask[:1], batch.answers[:1])
    _logits(model, seen, one)
    first: dict[int, str] = {}
    readers = {layer: first.setdefault(id(x), layer) for layer, x in seen.inputs.items()}
    seen.clear()
    return readers


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
    outputs = [name for name in names if name.startswith("out ")]
    wanted = [seen.outputs[name.removeprefix("out ")] for name in outputs]
    gradients = dict(zip(outputs, torch.autograd.grad(loss, wanted), strict=True)) if wanted else {}
    real = torch.from_numpy(batch.mask == 1).to(_device(model))
    for name in names:
        rows = gradients.pop(name, None)
        if rows is None:
            rows = seen.inputs[name.removeprefix("in ")]
        yield name, _gram(rows.detach()[real])
    seen.clear()


def _gram(rows: torch.Tensor) -> F32:
    """Σ x·xᵀ over rows [n, d]; on the CPU by numpy, which knows that it is symmetric."""
    if rows.is_cuda:
        found: F32 = (rows.float().T @ rows.float()).cpu().numpy()
        return found
    x: F32 = rows.float().numpy()
    return x.T @ x


def _device(model: Any) -> str:
    return str(next(model.parameters()).device)


def _model_files(folder: Path) -> list[Path]:
    """What the model's numbers depend on."""
    weights = (file for pattern in WEIGHT_FILES for file in folder.glob(pattern))
    return [folder / "config.json", *sorted(weights)]
