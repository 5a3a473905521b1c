"""Each layer's input second moments, through ONNX Runtime, on the user's own text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kronq.calibration.accumulate import MEMORY, Progress, Step, accumulate
from kronq.calibration.batches import LIMIT_TOKENS, Batch, Tokenize, batches, choose
from kronq.calibration.store import digest_batches, open_store
from kronq.calibration.taps import open_tapped, read_value
from kronq.errors import KronqError, StrPath
from kronq.genai.session import Session
from kronq.genai.token_inputs import make_token_inputs
from kronq.io.cache import digest_files
from kronq.io.examples import Example, read_examples
from kronq.model.adapter import Adapter
from kronq.model.matrix import F32
from kronq.model.second_moments import LayerMoments, SecondMoments
from kronq.onnx.base_folder import external_files
from kronq.onnx.graph.layer_match import Matches
from kronq.onnx.matched_base import match_base
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import ExecutionTarget, choose_target


def calibrate(
    adapter: Adapter,
    base: StrPath,
    data: StrPath | Sequence[Example],
    *,
    limit_tokens: int = LIMIT_TOKENS,
    cache: StrPath | None = None,
    device: str = "auto",
    threads: int | None = None,
    memory: int = MEMORY,
    tokenize: Tokenize | None = None,
    progress: Progress | None = None,
) -> SecondMoments:
    """E[x·xᵀ] of every adapted layer's input x in the base, over all tokens of the data.

    The result is kept in the cache by the contents of base and data: it is there at once for
    another adapter on the same layers, and an interrupted run goes on where it was.

    Args:
        adapter: Which layers; its values do not matter.
        base: An ONNX model or folder, as ``export_onnx`` takes it.
        data: A ``.jsonl`` file of examples or a text file, or examples.
        limit_tokens: How much of the data at most, drawn from all over it.
        cache: Where to keep the moments; None for $KRONQ_CACHE, $XDG_CACHE_HOME/kronq or
            ~/.cache/kronq.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: Within one operator; None leaves it to ONNX Runtime.
        memory: Bytes for the sums of one pass over the data; less means more passes.
        tokenize: Text → token ids; None takes the base folder's own tokenizer.
        progress: Called with (tokens done, tokens in all).

    Raises:
        MismatchError: The adapter does not belong to this base.
        UnsupportedError: The base has no tokenizer, or does not take tokens.
        KronqError: No text, no such device, or the base cannot be run.
    """
    target = choose_target(device, threads=threads)
    examples = read_examples(data) if isinstance(data, str | Path) else list(data)  # type: ignore[arg-type]
    matched = match_base(adapter, base)
    path, model, matches = matched.file, matched.model, matched.matches
    reads = {n: tuple({read_value(site, n, model): None for site in matches[n]}) for n in adapter}
    widths = _widths(reads, matches)
    chosen = choose(examples, tokenize or Session(path).tokenize, limit_tokens)
    made = batches(chosen)
    files = [path, *(path.parent / name for name in sorted(external_files(model)))]
    store = open_store(cache, "inputs", digest_files(files), digest_batches(made))

    def step_of(names: Collection[str]) -> Step:
        return _step(path, list(names), target)

    found = accumulate(store, widths, made, step_of, memory=memory, progress=progress)
    layers = {
        layer: LayerMoments(_mean([found[name] for name in names]))
        for layer, names in reads.items()
    }
    source = Path(data).name if isinstance(data, str | Path) else None
    return SecondMoments(layers, sum(batch.tokens for batch in made), source)


def _widths(reads: Mapping[str, Sequence[str]], matches: Matches) -> dict[str, int]:
    """Value → how long its rows are, in the order of the layers."""
    return {name: matches[layer][0].shape[1] for layer, names in reads.items() for name in names}


def _mean(moments: Sequence[F32]) -> F32:
    """Of a layer that the base uses more than once; of any other its own array, shared."""
    if len(moments) == 1:
        return moments[0]
    mean: F32 = np.mean(moments, axis=0, dtype=np.float32)
    return mean


def _step(path: Path, names: list[str], target: ExecutionTarget) -> Step:
    """Opens the base for one pass."""
    session = open_tapped(path, names, target)
    files = find_model(path)

    def step(batch: Batch) -> Iterator[tuple[str, F32]]:
        feed = make_token_inputs(session, files, batch.ids, batch.mask, ())
        try:
            values: list[Any] = session.run(names, feed)
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            raise KronqError(
                "ONNX Runtime cannot run the model", path=path, found=str(error)
            ) from error
        real = batch.mask == 1
        for name in names:
            rows = values.pop(0)[real].astype(np.float32, copy=False)
            yield name, rows.T @ rows

    return step
