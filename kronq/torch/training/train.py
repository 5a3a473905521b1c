"""``kronq.torch.train``: trains an adapter on one's own text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from kronq import __version__
from kronq.calibration.module_prints import fingerprint_modules
from kronq.calibration.torch_model import load_model, model_device
from kronq.errors import ArgumentError, OutputExistsError, StrPath, check_choice
from kronq.io.examples import Example, resolve_examples
from kronq.io.extras import require
from kronq.io.files import check_apart, check_output, new_folder
from kronq.io.safetensors_file import open_tensors
from kronq.model.adapter import Adapter
from kronq.torch.adapted_model import adapt_linears, adapted_layers, read_trained
from kronq.torch.training.checkpoint import CheckpointFile
from kronq.torch.training.output import PACKED, Layout
from kronq.torch.training.peft_families import PEFT_FAMILIES, PeftShape
from kronq.torch.training.peft_tuner import (
    count_trained,
    frozen_numbers,
    tune_with_peft,
    tuner_layers,
)
from kronq.torch.training.rows import choose_rows
from kronq.torch.training.settings import TrainingSettings
from kronq.torch.training.start import take_start
from kronq.torch.training.steps import Follow, run_steps
from kronq.torch.training.text_batches import TextBatches, encode_answers
from kronq.torch.training.trained import Trained
from kronq.writers.contents import Request
from kronq.writers.forms import DTYPES


@dataclass(frozen=True)
class Place:
    """Where a training runs, and what it writes.

    Attributes:
        dtype: Of the adapter's file: ``fp32``, ``fp16`` or ``bf16``.
        device: ``auto`` (CUDA if torch has it), ``cpu`` or ``cuda``.
        threads: Of torch. The bits of the result depend on it.
        force: Whether an output, or another training's checkpoint, is replaced.
    """

    dtype: str = "fp32"
    device: str = "auto"
    threads: int = 1
    force: bool = False


def train(
    base: StrPath,
    data: StrPath | Sequence[Example],
    out: StrPath,
    settings: TrainingSettings,
    place: Place | None = None,
    *,
    start: StrPath | Adapter | None = None,
    follow: Follow | None = None,
) -> Trained:
    """Trains an adapter, and writes it into a folder with its settings and the curve of its loss.

    With ``settings.target`` the adapter is trained as codes, and the folder has the packed file
    ``packed.safetensors`` of at most so many bytes beside the float factors.

    While it runs its state is in ``OUT.checkpoint.safetensors``, beside ``out``. If it is stopped,
    even by force, the same call goes on from there, to the same bits. On one machine, with as many
    threads, the same seed gives the same bytes.

    Args:
        base: A Hugging Face folder; nothing is downloaded.
        data: A file of examples, as ``read_examples`` reads it, or examples.
        out: The folder to write.
        settings: Family and recipe.
        place: Device, threads and dtype.
        start: An adapter of the same family and shapes whose values the training goes on from: a
            path, quantized or not, or an adapter; new values if None.
        follow: Called with (steps done, steps in all, loss).

    Raises:
        MissingDependencyError: torch, transformers or matplotlib is not installed.
        OutputExistsError: ``out``, or another training's checkpoint, exists without ``force``.
        KronqError: The base, data or settings do not do, or the loss is no longer a number.

    Example:
        >>> settings = kronq.torch.TrainingSettings(kronq.AdapterShape("lokr", 8))
        >>> kronq.torch.train("SmolLM2/", "questions.jsonl", "my-lokr", settings)
    """
    place = place or Place()
    require("train", "training")
    check_choice("dtype", place.dtype, DTYPES)
    target = check_output(out, force=place.force)
    check_apart(out, Path(base), Path(data) if isinstance(data, str | os.PathLike) else None)
    examples, source = resolve_examples(data)
    model, tokenize = load_model(base, device=place.device, purpose="training")
    with (
        new_folder(out, "train", force=place.force) as work,
        _reproducible(settings.seed, place.threads),
    ):
        model = _adapt(model, settings, base)
        begun = {} if start is None else {"start_sha256": take_start(model, start, base)}
        name = target.resolve().name
        request = Request("peft", place.dtype, base_model=str(base), title=name, basis=base)
        layout = Layout(settings.shape.family, request)
        shape = settings.shape
        if not isinstance(shape, PeftShape):
            layout.check(read_trained(model))
        end = _end_token(model) if settings.end else None
        sequences = encode_answers(examples, tokenize, _length(model, settings), end)
        config = _config(model, settings, examples, source) | begun
        checkpoint = _checkpoint(target, config, place.force)
        batches = TextBatches(sequences, settings.batch, settings.seed)
        make_rows = choose_rows(model, sequences)
        history, resumed = run_steps(model, batches, make_rows, settings, checkpoint, follow)
        config |= {"base": str(base), **_surroundings(model, place)}
        if isinstance(shape, PeftShape):
            config["parameters"] = count_trained(model)
            config["receiver"] = {
                "makes": PEFT_FAMILIES[shape.family].receiver,
                "numbers": frozen_numbers(model),
            }
            layout.write_tuned(model, work, config, history)
        else:
            layout.write(read_trained(model), work, config, history)
        counts = len(_linears(model)), count_trained(model)
    checkpoint.path.unlink(missing_ok=True)
    packed = None if settings.target is None else target / PACKED
    return Trained.of(layout.file(target), counts, history.losses, resumed, packed)


def _adapt(model: Any, settings: TrainingSettings, base: StrPath) -> Any:
    """Adapts a model in place, and returns it, or PEFT's around it."""
    shape, scale = settings.shape, settings.scale
    if isinstance(shape, PeftShape):
        return tune_with_peft(model, shape, only=settings.only, dropout=settings.dropout)
    assert scale is not None  # noqa: S101
    adapt_linears(
        model,
        shape,
        only=settings.only,
        alpha=scale * shape.rank,
        dropout=settings.dropout,
        base=base,
    )
    return model


def _linears(model: Any) -> dict[str, Any]:
    """Returns the base's linear layers that are adapted."""
    if hasattr(model, "peft_config"):
        return {name: each.get_base_layer() for name, each in tuner_layers(model).items()}
    return {name: each.base for name, each in adapted_layers(model).items()}


@contextmanager
def _reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seeds torch and limits its threads; both are as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)


def _length(model: Any, settings: TrainingSettings) -> int:
    context = getattr(model.config, "max_position_embeddings", None)
    return min(settings.length, context) if isinstance(context, int) else settings.length


def _end_token(model: Any) -> int:
    end = model.config.eos_token_id
    end = end[0] if isinstance(end, list) and end else end
    if not isinstance(end, int):
        raise ArgumentError("the base has no token that ends a text", path=model.name_or_path)
    return end


def _config(
    model: Any, settings: TrainingSettings, examples: Sequence[Example], source: str | None
) -> dict[str, Any]:
    """Returns all that the result depends on, but for the machine."""
    linear = _linears(model)
    shapes = {n: (each.out_features, each.in_features) for n, each in linear.items()}
    known = fingerprint_modules(linear, shapes)
    texts = json.dumps([[e.prompt, *e.choices, e.answer] for e in examples])
    return {
        "settings": settings.described(),
        "base_fingerprint": None if known is None else known.digest,
        "data": source,
        "data_sha256": hashlib.sha256(texts.encode()).hexdigest(),
        "examples": len(examples),
    }


def _surroundings(model: Any, place: Place) -> dict[str, Any]:
    return {
        "dtype": place.dtype,
        "device": model_device(model),
        "threads": place.threads,
        "versions": {
            "kronq": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _checkpoint(target: Path, config: dict[str, Any], force: bool) -> CheckpointFile:
    """Returns the checkpoint of this training, whether there is one or not.

    Raises:
        OutputExistsError: There is one of another training.
    """
    identity = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    path = target.with_name(f"{target.name}.checkpoint.safetensors")
    if path.exists() and not force and open_tensors(path).metadata.get("identity") != identity:
        raise OutputExistsError(
            "the checkpoint is of another training: other settings, data or base",
            path=path,
            hint="delete it, or {force} begins anew",
        )
    return CheckpointFile(path, identity)
