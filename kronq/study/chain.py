"""One chain of a study: an adapter is trained, files are made of it, and all are scored."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kronq.errors import KronqError
from kronq.evaluate.divergence import compare_text, log_probabilities, text_windows
from kronq.evaluate.score import score_examples
from kronq.evaluate.task_model import TaskModel
from kronq.io.examples import Example
from kronq.io.unfinished import scratch_folder
from kronq.model.adapter import Adapter
from kronq.model.matrix import F32
from kronq.packed.writer import save
from kronq.quantization.configs import Tuned
from kronq.quantization.error_budget import relative_error
from kronq.quantization.quantize import quantize
from kronq.readers.load import load
from kronq.study.adapters import (
    Bench,
    bytes_of_bases,
    family_of,
    size_facts,
    start_of,
    to_quantize,
    to_score,
)
from kronq.study.steps import IN_THE_LOOP, Chain, FileStep, ScoreStep, TextStep
from kronq.study.store import Scores

Follow = Callable[[int, int], None]
"""Called with (units done, units in all) of a training or a scoring."""
References = dict[tuple[str, str], list[F32]]
"""(Text, source) → log-probabilities that others are compared with."""


def run_chain(bench: Bench, chain: Chain, follow: Follow | None = None) -> str | None:
    """Makes whatever of a chain is not there yet, each thing complete before the next.

    Returns:
        Why the adapter could not be trained; None where nothing failed.
    """
    follow = follow or (lambda _done, _total: None)
    if not bench.needs.chain(chain):
        return None
    if chain.settings is not None:
        try:
            _train(bench, chain, follow)
        except KronqError as error:
            return f"{chain.name}: {error}"
        for step in chain.files:
            if bench.needs.file(chain, step) and bench.store.facts("files", step.key) is None:
                _make_file(bench, chain, step)
    for score in chain.scores:
        if bench.needs.result(score) and not bench.store.has_scores(score.key):
            _score(bench, chain, score, follow)
    references: References = {}
    for text in chain.texts:
        if bench.needs.result(text) and bench.store.facts("texts", text.key) is None:
            _compare(bench, chain, text, references)
    return None


def _train(bench: Bench, chain: Chain, follow: Follow) -> None:
    store = bench.store
    if store.facts("trained", chain.key) is not None:
        return
    from kronq.torch.training.train import Place, train

    assert chain.settings is not None  # noqa: S101
    dtype = "fp32" if family_of(chain) == "lora-xs" else bench.dtype
    place = Place(dtype=dtype, device="cpu")
    begun, share = time.process_time(), 1.0
    if not store.trained(chain.key).exists():
        trained = train(
            bench.base.hf,
            bench.tasks[chain.task].learned,
            store.trained(chain.key),
            chain.settings,
            place,
            start=start_of(bench, chain),
            follow=lambda done, total, _: follow(done, total),
        )
        share = (trained.steps - trained.resumed) / trained.steps
    seconds = (time.process_time() - begun) / max(share, 1e-9)
    losses = json.loads((store.trained(chain.key) / "train.json").read_text("utf-8"))["losses"]
    last = losses[-10:]
    facts = {"seconds": seconds, "last_loss": sum(last) / len(last), **size_facts(bench, chain)}
    store.write_facts("trained", chain.key, facts)


def _make_file(bench: Bench, chain: Chain, step: FileStep) -> None:
    begun, file = time.process_time(), bench.store.file(step.key)
    facts: dict[str, Any] = {}
    try:
        adapter = to_quantize(bench, chain)
        facts["shared_bytes"] = bytes_of_bases(adapter)
        if step.method == IN_THE_LOOP:
            shutil.copyfile(bench.store.trained_packed(chain.key), file)
            quantized, nbytes = load(file), file.stat().st_size
        elif step.config is None:
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
    if not _is_there(bench, step.source):
        return
    begun, model = time.process_time(), _model(bench.base.onnx)
    model.use(to_score(bench, chain, step.source))
    scores = score_examples(
        model,
        bench.tasks[step.task].scored,
        choices=step.choices,
        progress=follow,
    )
    bench.store.write_scores(step.key, Scores.of(scores, time.process_time() - begun))


def _is_there(bench: Bench, source: str) -> bool:
    """Returns whether there is something to score: not of a file that could not be made."""
    if source in ("base", "trained"):
        return True
    facts = bench.store.facts("files", source)
    return facts is not None and "left_out" not in facts


def _windows(bench: Bench, text: str) -> list[list[int]]:
    source = bench.texts[text]
    return text_windows(_model(bench.base.onnx), source.text, source.tokens)


def _compare(bench: Bench, chain: Chain, step: TextStep, references: References) -> None:
    if not _is_there(bench, step.source):
        return
    begun, model = time.process_time(), _model(bench.base.onnx)
    names = ["base", "trained"][: 1 if chain.settings is None else 2]
    windows = _windows(bench, step.text)
    for name in names:
        if (step.text, name) not in references:
            model.use(to_score(bench, chain, name))
            references[step.text, name] = log_probabilities(model, windows)
    model.use(to_score(bench, chain, step.source))
    compared = compare_text(model, windows, [references[step.text, name] for name in names])
    facts: dict[str, Any] = {"nll": compared.nll, "tokens": compared.tokens}
    facts |= {f"kl_{name}": kl for name, kl in zip(names, compared.kl, strict=True)}
    facts["seconds"] = time.process_time() - begun
    bench.store.write_facts("texts", step.key, facts)
