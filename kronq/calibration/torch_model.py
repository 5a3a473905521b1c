"""Hugging Face models in torch with an adapter attached by hooks: no PEFT, no dense ΔW.

The factors are plain tensors beside the model. They may be replaced between two steps, and may
require gradients, so calibration and distillation share these functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from kronq.base.hf_folder import check_hf_folder
from kronq.base.module_count import counted_modules
from kronq.calibration.batches import Batch, Tokenize
from kronq.calibration.linear_modules import linear_shape
from kronq.calibration.module_prints import fingerprint_modules
from kronq.calibration.torch_factors import TorchFactors, to_torch_factors
from kronq.errors import (
    ArgumentError,
    KronqError,
    MismatchError,
    MissingDependencyError,
    StrPath,
    listing,
)
from kronq.io.extras import require
from kronq.io.input_path import find_input
from kronq.io.json_file import refuse_damaged_json
from kronq.model.adapter import Adapter
from kronq.model.base_fingerprint import BaseFingerprint, refuse_other_base
from kronq.model.fit import fit_adapter
from kronq.model.plain import refuse_all_but_deltas, refuse_cores
from kronq.onnx.graph.match_by_name import match_by_name
from kronq.onnx.graph.sites import Site

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class AttachedAdapter:
    """Adapter attached to a model.

    Attributes:
        factors: Layer → factors of the next forward pass. Entries may be replaced; a layer that is
            removed runs as the base alone.
        modules: Layer → its module.
        base: Fingerprint of the modules' weights.
    """

    factors: dict[str, TorchFactors]
    modules: Mapping[str, torch.nn.Module]
    base: BaseFingerprint | None = None


def load_model(
    folder: StrPath, *, device: str = "auto", purpose: str = "this"
) -> tuple[Any, Tokenize]:
    """Loads a causal language model in float32, frozen and in evaluation mode, and its tokenizer.

    Nothing is downloaded.

    Args:
        folder: A Hugging Face folder: config.json, weights, tokenizer.
        device: ``auto`` (CUDA if torch has it), ``cpu`` or ``cuda``.
        purpose: The use of the model, for the error when torch is missing.

    Raises:
        MissingDependencyError: torch or transformers is not installed, or has no CUDA.
        KronqError: The folder lacks these files, or transformers cannot open it.
    """
    require("torch", purpose)
    folder = find_input(folder, "base")
    check_hf_folder(folder)
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
        safe = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        with counted_modules(folder):
            model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, **safe
            )
    except KronqError:
        raise
    except Exception as error:  # transformers' errors share no class of their own
        refuse_damaged_json(folder)
        raise KronqError(
            "transformers cannot open the model", path=folder, found=str(error)
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    torch_device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    model = model.to(torch_device).eval().requires_grad_(False)
    return model, lambda text: tokenizer(text)["input_ids"]


def model_device(model: Any) -> str:
    """Returns the device of a model's weights."""
    return str(next(model.parameters()).device)


def find_modules(model: torch.nn.Module, adapter: Adapter) -> dict[str, torch.nn.Module]:
    """Finds each layer's module by name.

    Raises:
        MismatchError: Layers have no module; all are listed.
        UnsupportedError: The adapter has convolutions, DoRA's magnitudes or carried tensors.
    """
    refuse_cores(adapter, "calibration")
    refuse_all_but_deltas(adapter, "calibration")
    linear = {name: m for name, m in model.named_modules() if linear_shape(m) is not None}
    matches = match_by_name([*adapter], [_as_site(name) for name in linear])
    found = {
        layer: match.sites[0].names[0]
        for layer, match in matches.items()
        if len(match.sites) == 1 and match.sites[0].part is None
    }
    missing = [layer for layer in adapter if layer not in found]
    if missing:
        raise MismatchError(
            f"{len(missing)} of {len(adapter)} adapted layers have no linear module in the model",
            found=listing(missing),
            hint="wrong base model?",
            code="layers-not-in-base",
        )
    return {layer: linear[name] for layer, name in found.items()}


def _as_site(name: str) -> Site:
    """Describes a module as a graph would: one rule matches names everywhere."""
    node = ir.Node("", "MatMul", [None, ir.Value(name=name)], name=name)
    return Site(node, None, (), True, (0, 0), (name,))


def _shapes(modules: Mapping[str, torch.nn.Module]) -> dict[str, tuple[int, int]]:
    shapes = {name: linear_shape(module) for name, module in modules.items()}
    return {name: shape for name, shape in shapes.items() if shape is not None}


@contextmanager
def attach(
    model: torch.nn.Module, adapter: Adapter, *, trainable: bool = False
) -> Iterator[AttachedAdapter]:
    """Attaches an adapter to the model while the block runs: one hook a layer, y += x · ΔWᵀ.

    Args:
        model: The model, from ``load_model``; its own weights do not change.
        adapter: The adapter, quantized or not.
        trainable: Whether the factors require gradients.

    Raises:
        MismatchError: The adapter does not belong to this model, or was calibrated with another.
    """
    modules = find_modules(model, adapter)
    shapes = _shapes(modules)
    base = fingerprint_modules(modules, shapes)
    refuse_other_base(adapter.base, base, getattr(model, "name_or_path", None))
    fitted = fit_adapter(adapter, shapes)
    device = model_device(model)
    factors = {n: to_torch_factors(d, device, trainable=trainable) for n, d in fitted.items()}

    def hook_of(layer: str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            here = factors.get(layer)
            return output if here is None else output + here.apply(args[0])

        return hook

    handles = [modules[layer].register_forward_hook(hook_of(layer)) for layer in factors]
    try:
        yield AttachedAdapter(factors, modules, base)
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class TorchBatch:
    """``Batch`` as tensors."""

    ids: torch.Tensor
    mask: torch.Tensor
    answers: torch.Tensor


def to_torch_batch(batch: Batch, device: str = "cpu") -> TorchBatch:
    import torch

    return TorchBatch(
        *(torch.from_numpy(x).to(device) for x in (batch.ids, batch.mask, batch.answers))
    )


def answer_logits(
    model: Any, batch: TorchBatch, *, everywhere: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicts the tokens of the answers.

    Args:
        model: The model, from ``load_model``.
        batch: The batch, from ``to_torch_batch``.
        everywhere: Whether to compute the output layer, which is most of a small model, for all
            positions and not only for those before an answer's tokens.

    Returns:
        Logits [answer tokens, vocabulary] and the answers' token ids [answer tokens], sequence by
        sequence.
    """
    answers = batch.answers[:, 1:]
    kept = answers.any(dim=0).nonzero()[:, 0]
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        use_cache=False,
        logits_to_keep=0 if everywhere else kept,
    ).logits
    if logits.shape[1] == answers.shape[1] + 1:  # a model without logits_to_keep returns all
        logits = logits[:, kept]
    return logits[answers[:, kept]], batch.ids[:, 1:][answers]
