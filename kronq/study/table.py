"""The table of a study: a row for the base, each adapter as trained and each file, on each task."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kronq.io.files import write_file
from kronq.study.steps import Chain, FileStep, Plan
from kronq.study.store import Scores, Store

SHARED = "bases made of the base's weights"
"""What a receiver of R alone does for its bases, if it is not sent ``shared_bytes`` once."""


@dataclass(frozen=True)
class Row:
    """Scores of the base, an adapter as trained, or a file, on one task.

    Attributes:
        kind: ``base``, ``trained`` or ``file``.
        label: Label of the family.
        family: Name of the family.
        rank: Its rank; None of PEFT's families at their default.
        seed: Of the training.
        trained_on: Task.
        task: Task that is scored.
        method: Of the file.
        setting: Of the method, in words.
        bits: As asked for.
        size: Bytes as asked for.
        bytes: Of the whole file on disk.
        shared_bytes: What a receiver needs beside it, in float16, and may make itself.
        shared: How it does.
        parameters: Numbers that were trained.
        weight_error: ‖ΔW − ΔŴ‖ / ‖ΔW‖.
        questions: Number of examples.
        nll: Negative log-likelihood of right answers, or of a text, nats a token.
        text_tokens: Tokens of a text of no task that were predicted; None for a task.
        kl_base: KL(base ‖ this) on the text, nats a token.
        kl_trained: KL(as trained ‖ this) on the text.
        accuracy: Share of right choices by likelihood.
        accuracy_normalized: The same per character.
        recall: Share of answers all of whose tokens are the likeliest.
        train_seconds: CPU time.
        make_seconds: CPU time of the quantization.
        score_seconds: CPU time.
        left_out: Why there is no such file.
        path: Of the adapter or file, in the study's folder.
        key: Of the scores.
        question_nll: Of each question, summed over its tokens.
        question_tokens: Tokens of each right answer.
        question_right: Whether the right choice was the likeliest.
    """

    kind: Literal["base", "trained", "file"]
    label: str = ""
    family: str = ""
    rank: int | None = None
    seed: int | None = None
    trained_on: str = ""
    task: str = ""
    method: str = ""
    setting: str = ""
    bits: float | None = None
    size: str | None = None
    bytes: int | None = None
    shared_bytes: int = 0
    shared: str = ""
    parameters: int | None = None
    weight_error: float | None = None
    questions: int | None = None
    nll: float | None = None
    text_tokens: int | None = None
    kl_base: float | None = None
    kl_trained: float | None = None
    accuracy: float | None = None
    accuracy_normalized: float | None = None
    recall: float | None = None
    train_seconds: float | None = None
    make_seconds: float | None = None
    score_seconds: float | None = None
    left_out: str = ""
    path: str = ""
    key: str = ""
    question_nll: tuple[float, ...] = ()
    question_tokens: tuple[int, ...] = ()
    question_right: tuple[bool, ...] | None = None


_TYPES = {
    "rank": "int64",
    "seed": "int64",
    "bits": "float64",
    "bytes": "int64",
    "shared_bytes": "int64",
    "parameters": "int64",
    "questions": "int64",
    "text_tokens": "int64",
    "question_nll": "list<float64>",
    "question_tokens": "list<int32>",
    "question_right": "list<bool>",
    **dict.fromkeys(
        (
            *(
                "weight_error",
                "nll",
                "kl_base",
                "kl_trained",
                "accuracy",
                "accuracy_normalized",
                "recall",
            ),
            *("train_seconds", "make_seconds", "score_seconds"),
        ),
        "float64",
    ),
}
"""Column → its type in Parquet; text for all others."""


def collect(plan: Plan, store: Store) -> list[Row]:
    """Returns the rows of all that is done, in the order of the plan."""
    return [row for chain in plan.chains for row in _rows(plan, store, chain)]


def _rows(plan: Plan, store: Store, chain: Chain) -> Iterator[Row]:
    files = {step.key: step for step in chain.files}
    for score in chain.scores:
        scores = store.scores(score.key)
        left_out = (store.facts("files", score.source) or {}).get("left_out", "")
        if scores is not None or left_out:
            yield Row(
                **_identity(plan, store, chain, files.get(score.source), score.source),
                task=score.task,
                left_out=left_out,
                key=score.key,
                **(_figures(scores) if scores is not None else {}),
            )
    for text in chain.texts:
        facts = store.facts("texts", text.key)
        if facts is not None:
            yield Row(
                **_identity(plan, store, chain, files.get(text.source), text.source),
                task=text.text,
                key=text.key,
                text_tokens=facts["tokens"],
                nll=facts["nll"],
                kl_base=facts.get("kl_base"),
                kl_trained=facts.get("kl_trained"),
                score_seconds=facts["seconds"],
            )


def _identity(
    plan: Plan, store: Store, chain: Chain, step: FileStep | None, source: str
) -> dict[str, Any]:
    if chain.settings is None:
        return {"kind": "base"}
    trained = store.facts("trained", chain.key) or {}
    made = trained if step is None else store.facts("files", step.key) or {}
    told: dict[str, Any] = {
        "kind": "trained" if source == "trained" else "file",
        "label": chain.family,
        "family": plan.study.families[chain.family].family,
        "rank": chain.settings.shape.rank,
        "seed": chain.seed,
        "trained_on": chain.trained_on,
        "bytes": made.get("bytes"),
        "shared_bytes": made.get("shared_bytes", 0),
        "shared": made.get("shared") or (SHARED if made.get("shared_bytes") else ""),
        "parameters": trained.get("parameters"),
        "train_seconds": trained.get("seconds"),
        "method": "as trained",
        "weight_error": 0.0,
        "path": str(store.trained_adapter(chain.key).relative_to(store.root)),
    }
    if step is not None:
        told |= {
            "method": step.method,
            "setting": step.setting,
            "bits": step.bits,
            "size": None if step.size is None else str(step.size),
            "weight_error": made.get("weight_error"),
            "make_seconds": made.get("seconds"),
            "path": str(store.file(step.key).relative_to(store.root)),
        }
    return told


def _figures(scores: Scores) -> dict[str, Any]:
    def share(values: Sequence[bool] | None) -> float | None:
        return None if values is None else sum(values) / len(values)

    return {
        "questions": len(scores.nll),
        "nll": sum(scores.nll) / sum(scores.tokens),
        "accuracy": share(scores.right),
        "accuracy_normalized": share(scores.right_normalized),
        "recall": share(scores.recalled),
        "score_seconds": scores.seconds,
        "question_nll": scores.nll,
        "question_tokens": scores.tokens,
        "question_right": scores.right,
    }


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Writes the table as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"list<float64>": pa.list_(pa.float64()), "list<int32>": pa.list_(pa.int32())}
    kinds |= {"list<bool>": pa.list_(pa.bool_())}
    names = Row.__dataclass_fields__
    types = {name: _TYPES.get(name, "string") for name in names}
    schema = pa.schema([(n, kinds.get(t) or pa.type_for_alias(t)) for n, t in types.items()])
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    write_file(path, data.getvalue(), force=True)
