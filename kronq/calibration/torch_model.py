"""A Hugging Face model in torch with an adapter on it, by hooks: no PEFT, no dense ΔW.

The factors are plain tensors beside the model. They may be replaced between two steps, and may
require gradients, so the same few functions serve calibration and distillation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kronq.base.hf_folder import check_hf_folder
from kronq.calibration.batches import Batch, Tokenize
from kronq.calibration.torch_factors import Factors, factors_of
from kronq.errors import ArgumentError, KronqError, MismatchError, MissingDependencyError, StrPath
from kronq.io.extras import require
from kronq.model.adapter import Adapter
from kronq.model.fit import fit_adapter
from kronq.onnx.graph.match_by_name import canonical

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Attached:
    """An adapter on a model.

    Attributes:
        factors: Layer → what its hook adds at the next forward pass. Entries may be replaced; a
            layer that is taken out runs as the base alone.
        modules: Layer → the module it is on.
    """

    factors: dict[str, Factors]
    modules: Mapping[str, torch.nn.Module]


def load_model(
    folder: StrPath, *, device: str = "auto", purpose: str = "this"
) -> tuple[Any, Tokenize]:
    """A causal language model in float32, frozen and in evaluation mode, and its tokenizer.

    Nothing is downloaded.

    Args:
        folder: A Hugging Face folder: config.json, weights, tokenizer.
        device: ``auto`` (CUDA if torch has it), ``cpu`` or ``cuda``.
        purpose: What needs it, for the error when torch is missing.

    Raises:
        MissingDependencyError: torch or transformers is not installed, or CUDA is not there.
        KronqError: Not such a folder, or transformers cannot open it.
    """
    require("torch", purpose, "torch", "transformers")
    check_hf_folder(Path(folder))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if device not in ("auto", "cpu", "cuda"):
        raise ArgumentError("unknown device", found=device, expected="auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("no CUDA in this torch", found=torch.__version__)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # kronq has one of its own
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
    except Exception as error:  # transformers' errors share no class of their own
        raise KronqError(
            "transformers cannot open the model", path=folder, found=str(error)
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    model = model.to(where).eval().requires_grad_(False)
    return model, lambda text: tokenizer(text)["input_ids"]


def find_modules(model: torch.nn.Module, adapter: Adapter) -> dict[str, torch.nn.Module]:
    """Each layer's module, by name.

    Raises:
        MismatchError: Layers without a module (all are listed), or with one of another shape.
    """
    linear = {n: m for n, m in model.named_modules() if _shape(m) is not None}
    alike: dict[str, list[str]] = {}
    for name in linear:
        alike.setdefault(canonical(name), []).append(name)
    found: dict[str, torch.nn.Module] = {}
    missing = []
    for layer in adapter:
        names = [layer] if layer in linear else alike.get(canonical(layer), [])
        if len(names) == 1:
            found[layer] = linear[names[0]]
        else:
            missing.append(layer)
    if missing:
        raise MismatchError(
            f"{len(missing)} of {len(adapter)} adapted layers have no linear module in the model",
            found="; ".join(missing),
            hint="wrong base model?",
        )
    return found


def _shape(module: torch.nn.Module) -> tuple[int, int] | None:
    """(d_out, d_in) of a linear module, of transformers' Conv1D too; None for any other."""
    import torch

    if isinstance(module, torch.nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return module.nf, int(module.weight.shape[0])
    return None


def _shapes(modules: Mapping[str, torch.nn.Module]) -> dict[str, tuple[int, int]]:
    shapes = {name: _shape(module) for name, module in modules.items()}
    return {name: shape for name, shape in shapes.items() if shape is not None}


@contextmanager
def attach(
    model: torch.nn.Module, adapter: Adapter, *, trainable: bool = False
) -> Iterator[Attached]:
    """The adapter on the model while the block runs: one hook a layer, y += x · ΔWᵀ.

    Args:
        model: As ``load_model`` gives it, on any device; its own weights are left alone.
        adapter: Of any kind, quantized or not.
        trainable: Whether the factors require gradients.

    Raises:
        MismatchError: The adapter does not belong to this model.
    """
    modules = find_modules(model, adapter)
    fitted = fit_adapter(adapter, _shapes(modules))
    device = str(next(model.parameters()).device)
    factors = {n: factors_of(d, device, trainable=trainable) for n, d in fitted.items()}

    def hook_of(layer: str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            here = factors.get(layer)
            return output if here is None else output + here.apply(args[0])

        return hook

    handles = [modules[layer].register_forward_hook(hook_of(layer)) for layer in factors]
    try:
        yield Attached(factors, modules)
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class TorchBatch:
    """A ``Batch`` as tensors; see there."""

    ids: torch.Tensor
    mask: torch.Tensor
    answers: torch.Tensor


def to_torch(batch: Batch, device: str = "cpu") -> TorchBatch:
    import torch

    return TorchBatch(
        *(torch.from_numpy(x).to(device) for x in (batch.ids, batch.mask, batch.answers))
    )


def answer_logits(
    model: Any, batch: TorchBatch, *, everywhere: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model predicts where an answer's tokens come next, and which tokens those are.

    Args:
        model: As ``load_model`` gives it.
        batch: Of ``to_torch``.
        everywhere: Compute the output layer, which is most of a small model, for all positions and
            not only for those that are asked for.

    Returns:
        Logits [answer tokens, vocabulary] and token ids [answer tokens], sequence by sequence.
    """
    wanted = batch.answers[:, 1:]
    kept = wanted.any(dim=0).nonzero()[:, 0]
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        use_cache=False,
        logits_to_keep=0 if everywhere else kept,
    ).logits
    if logits.shape[1] == wanted.shape[1] + 1:  # a model that knows no such option gives all, too
        logits = logits[:, kept]
    return logits[wanted[:, kept]], batch.ids[:, 1:][wanted]
