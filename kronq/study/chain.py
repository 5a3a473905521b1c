"""One chain of a study: an adapter is trained, files are made of it, and all are scored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kronq.errors import KronqError
from kronq.evaluate.score import score_examples
from kronq.evaluate.task_model import TaskModel
from kronq.io.examples import Example
from kronq.io.unfinished import scratch_folder
from kronq.model.adapter import Adapter
from kronq.packed import pack_adapter
from kronq.packed.writer import save
from kronq.quantization.configs import Tuned
from kronq.quantization.error_budget import relative_error
from kronq.quantization.quantize import quantize
from kronq.readers.basis import extract_cores
from kronq.readers.load import load
from kronq.report.comparison_models import Baseline
from kronq.study.plan import Chain, FileStep, ScoreStep
from kronq.study.sources import Base, TaskExamples
from kronq.study.store import Scores, Store

Follow = Callable[[int, int], None]
"""Called with (units done, units in all) of a training or a scoring."""


@dataclass(frozen=True)
class Bench:
    """What all chains of a study work with.

    Attributes:
        store: Where results are kept.
        base: The base.
        tasks: Label → examples.
        dtype: Of adapters as trained.
        baselines: Name → baseline.
    """

    store: Store
    base: Base
    tasks: Mapping[str, TaskExamples]
    dtype: str
    baselines: Mapping[str, Baseline]


def run_chain(bench: Bench, chain: Chain, follow: Follow | None = None) -> str | None:
    """Makes whatever of a chain is not there yet, each thing complete before the next.

    Returns:
        Why the adapter could not be trained; None where nothing failed.
    """
    follow = follow or (lambda _done, _total: None)
    if chain.settings is not None:
        try:
            _train(bench, chain, follow)
        except KronqError as error:
            return f"{chain.name}: {error}"
        for step in chain.files:
            if bench.store.facts("files", step.key) is None:
                _make_file(bench, chain, step)
    for score in chain.scores:
        if not bench.store.has_scores(score.key):
            _score(bench, chain, score, follow)
    return None


def _train(bench: Bench, chain: Chain, follow: Follow) -> None:
    store = bench.store
    if store.facts("trained", chain.key) is not None:
        return
    from kronq.torch.training.train import Place, train

    assert chain.settings is not None  # noqa: S101
    family = chain.settings.shape.family
    place = Place(dtype="fp32" if family == "lora-xs" else bench.dtype, device="cpu")
    begun, share = time.process_time(), 1.0
    if not store.trained(chain.key).exists():
        trained = train(
            bench.base.hf,
            bench.tasks[chain.task].learned,
            store.trained(chain.key),
            chain.settings,
            place,
            follow=lambda done, total, _: follow(done, total),
        )
        share = (trained.steps - trained.resumed) / trained.steps
    seconds = (time.process_time() - begun) / max(share, 1e-9)
    losses = json.loads((store.trained(chain.key) / "train.json").read_text("utf-8"))["losses"]
    last = losses[-10:]
    facts = {"seconds": seconds, "last_loss": sum(last) / len(last), **_size(bench, chain)}
    store.write_facts("trained", chain.key, facts)


def _size(bench: Bench, chain: Chain) -> dict[str, Any]:
    """Returns the size of an adapter as trained: its file, or R alone and its bases apart."""
    adapter = _adapter(bench, chain)
    if adapter.bases is not None:
        nbytes = len(pack_adapter(adapter))
    else:
        path = bench.store.trained_adapter(chain.key)
        files = [path] if path.is_file() else [*path.glob("adapter_model.*")]
        nbytes = sum(file.stat().st_size for file in files)
    return {
        "bytes": nbytes,
        "parameters": adapter.parameters,
        "shared_bytes": _bytes_of_bases(adapter),
    }


def _bytes_of_bases(adapter: Adapter) -> int:
    """Returns the bytes in float16 of frozen bases, which a receiver makes again or has once."""
    if adapter.bases is None:
        return 0
    shapes = {name: basis.shape for name, basis in adapter.bases.layers.items()}
    return sum(2 * adapter[name].rank * sum(shape) for name, shape in shapes.items())


def _adapter(bench: Bench, chain: Chain) -> Adapter:
    """Returns the adapter that is quantized: as trained, or of LoRA-XS R alone."""
    adapter = load(bench.store.trained_adapter(chain.key))
    assert chain.settings is not None  # noqa: S101
    if chain.settings.shape.family == "lora-xs":
        return extract_cores(adapter, bench.base.hf)
    return adapter


def _make_file(bench: Bench, chain: Chain, step: FileStep) -> None:
    adapter, begun = _adapter(bench, chain), time.process_time()
    file = bench.store.file(step.key)
    facts: dict[str, Any] = {"shared_bytes": _bytes_of_bases(adapter)}
    try:
        if step.config is None:
            made = bench.baselines[step.method].run(adapter)
            quantized, nbytes = made.adapter, made.nbytes
            save(quantized, file, force=True)
        else:
            quantized = _quantize(bench, chain, step, adapter)
            save(quantized, file, force=True)
            nbytes = file.stat().st_size
        facts |= {"bytes": nbytes, "weight_error": relative_error(adapter, quantized)}
    except KronqError as error:
        facts["left_out"] = str(error)
    facts["seconds"] = time.process_time() - begun
    bench.store.write_facts("files", step.key, facts)


def _quantize(bench: Bench, chain: Chain, step: FileStep, adapter: Adapter) -> Adapter:
    if not isinstance(step.config, Tuned):
        return quantize(adapter, step.config)
    with scratch_folder(f"study-{step.key}") as folder:
        data = folder / "task.jsonl"
        _write_examples(bench.tasks[chain.task].learned, data)
        config = replace(step.config, model=bench.base.hf, data=data)
        return quantize(adapter, config)


def _write_examples(examples: tuple[Example, ...], file: Path) -> None:
    """Writes examples so that ``read_examples`` gives the same again."""
    rows: list[dict[str, Any]] = []
    for example in examples:
        question = example.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        choices = [choice[1:] for choice in example.choices]
        if example.prompt == f"Question: {question}\nAnswer:":
            rows.append({"question": question, "choices": choices, "answer": example.answer})
        elif example.prompt:
            rows.append({"prompt": example.prompt, "completion": example.choices[example.answer]})
        else:
            rows.append({"text": example.text})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@lru_cache(maxsize=1)
def _model(onnx: Path) -> TaskModel:
    return TaskModel(onnx, device="cpu", threads=1)


def _score(bench: Bench, chain: Chain, step: ScoreStep, follow: Follow) -> None:
    if step.source not in ("base", "trained"):
        facts = bench.store.facts("files", step.source)
        if facts is None or "left_out" in facts:
            return
    begun, model = time.process_time(), _model(bench.base.onnx)
    model.use(_scored_adapter(bench, chain, step))
    scores = score_examples(
        model,
        bench.tasks[step.task].scored,
        choices=step.choices,
        progress=follow,
    )
    bench.store.write_scores(step.key, Scores.of(scores, time.process_time() - begun))


def _scored_adapter(bench: Bench, chain: Chain, step: ScoreStep) -> Adapter | None:
    if step.source == "base":
        return None
    if step.source == "trained":
        return load(bench.store.trained_adapter(chain.key))
    assert chain.settings is not None  # noqa: S101
    basis = bench.base.hf if chain.settings.shape.family == "lora-xs" else None
    return load(bench.store.file(step.source), basis=basis)
