"""Second moments of every layer's input, through ONNX Runtime, on the user's own text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np

from kronq.calibration.accumulate import SumOfBatch, accumulate
from kronq.calibration.batches import (
    SEQUENCE_TOKENS,
    Batch,
    Tokenize,
    make_batches,
    sample_sequences,
)
from kronq.calibration.exposed_values import input_value_name, open_exposed
from kronq.calibration.moment_store import digest_batches, open_store
from kronq.calibration.token_limit import LIMIT_TOKENS
from kronq.errors import StrPath, check_type
from kronq.genai.session import Session
from kronq.genai.token_inputs import make_token_inputs
from kronq.io.cache import digest_files
from kronq.io.examples import Example, resolve_examples
from kronq.io.extras import require
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.onnx.external_data import external_files
from kronq.onnx.matched_base import match_base
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import ExecutionOptions, ExecutionTarget, choose_target
from kronq.onnx.sessions import run_session


def calibrate(
    adapter: Adapter,
    base: StrPath,
    data: StrPath | Sequence[Example],
    *,
    limit_tokens: int = LIMIT_TOKENS,
    cache: StrPath | None = None,
    tokenize: Tokenize | None = None,
    progress: Progress | None = None,
    **execution: Unpack[ExecutionOptions],
) -> SecondMoments:
    """Collects E[x·xᵀ] of every adapted layer's input x in the base, over all tokens of the data.

    The cache keeps the result by the contents of base and data: another adapter on the same layers
    finds it there, and an interrupted run continues from its last checkpoint.

    Args:
        adapter: The adapter; its values do not matter.
        base: An ONNX model or folder, as ``export_onnx`` takes it.
        data: A ``.jsonl`` file of examples or a text file, or examples.
        limit_tokens: Tokens of the data at most, sampled from all over it.
        cache: Folder for the moments; None for $KRONQ_CACHE, $XDG_CACHE_HOME/kronq or
            ~/.cache/kronq.
        tokenize: Text → token ids; None takes the base folder's own tokenizer.
        progress: Called with (tokens done, tokens in all).
        execution: ``device``, ``provider``, ``provider_options`` and ``threads``, as ``Session``
            takes them.

    Raises:
        MismatchError: The adapter does not belong to this base.
        UnsupportedError: The base has no tokenizer, or does not take tokens.
        KronqError: There is no text or no such device, or the base cannot be run.
        MissingDependencyError: onnxruntime-genai, for the base's tokenizer, is missing.
    """
    check_type("adapter", adapter, Adapter)
    if tokenize is None:
        require("genai", "calibration with the base folder's tokenizer")
    target = choose_target(**execution)
    examples, source = resolve_examples(data)
    matched = match_base(adapter, base)
    path, model, matches = matched.file, matched.model, matched.matches
    values = {
        layer: tuple({input_value_name(site, layer, model): None for site in matches[layer]})
        for layer in adapter
    }
    widths = {name: matches[layer][0].shape[1] for layer in values for name in values[layer]}
    longest = min(SEQUENCE_TOKENS, find_model(path).context or SEQUENCE_TOKENS)
    encode = tokenize or Session(path).tokenize
    sequences = sample_sequences(examples, encode, limit_tokens, longest)
    batches = make_batches(sequences)
    files = [path, *(path.parent / name for name in sorted(external_files(model)))]
    store = open_store(cache, "inputs", digest_files(files), digest_batches(batches))
    moments = accumulate(
        store, widths, batches, partial(_start_pass, path, target), progress=progress
    )
    layers = {layer: LayerMoments(_layer_mean(moments, names)) for layer, names in values.items()}
    return SecondMoments(
        layers,
        sum(batch.tokens for batch in batches),
        source,
        store.folder.name,
        matched.fingerprint,
    )


def _layer_mean(moments: Mapping[str, F32], names: Sequence[str]) -> F32:
    """Returns the mean over a layer's inputs; the array itself where the base uses it once."""
    if len(names) == 1:
        return moments[names[0]]
    mean: F32 = np.mean([moments[name] for name in names], axis=0, dtype=np.float32)
    return mean


def _start_pass(path: Path, target: ExecutionTarget, names: Collection[str]) -> SumOfBatch:
    """Opens the base with the named values as outputs, for one pass over the data."""
    outputs = list(names)
    session = open_exposed(path, outputs, target)
    files = find_model(path)

    def sum_batch(batch: Batch) -> Iterator[tuple[str, F32]]:
        feed = make_token_inputs(session, files, batch.ids, batch.mask, ())
        values = run_session(session, path, outputs, feed)
        real = batch.mask == 1
        for name in outputs:
            rows = values.pop(0)[real].astype(np.float32, copy=False)
            yield name, rows.T @ rows

    return sum_batch
