"""The table of a study: a row for the base, each adapter as trained and each file, on each task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kronq.study.published import Published
from kronq.study.row import Row
from kronq.study.steps import Chain, FileStep, Plan
from kronq.study.store import Scores, Store

SHARED = "bases made of the base's weights"
"""What a receiver of R alone does for its bases, if it is not sent ``shared_bytes`` once."""


def collect(plan: Plan, store: Store, published: Published) -> list[Row]:
    """Returns the rows of all that is done, in the order of the plan."""
    return [row for chain in plan.chains for row in _rows(plan, store, published, chain)]


def _rows(plan: Plan, store: Store, published: Published, chain: Chain) -> Iterator[Row]:
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
        elif (known := published.row(chain, score)) is not None:
            yield known
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
        elif (known := published.row(chain, text)) is not None:
            yield known


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
