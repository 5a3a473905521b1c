"""Task accuracy of an adapter at every width, on ARC-Easy test questions, in ONNX Runtime.

    python -m tests.benchmarks.accuracy [ADAPTER] [--base DIR] [--count N]

Finished models are kept in .cache/accuracy/, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

import kronq

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from score import (  # noqa: E402
    Answer,
    accuracy,
    agreement,
    answer_all,
    load_questions,
    nll_per_token,
)

MODELS = [("base", 0), ("trained", 32), ("balanced", 8), ("balanced", 4), ("balanced", 3)]
MODELS += [("balanced", 2), ("rtn", 4), ("rtn", 3), ("rtn", 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", nargs="?", default=str(ROOT / "examples/arc-easy-lokr-r8"))
    parser.add_argument("--base", default=str(ROOT / ".demo/base"), help="an ONNX base folder")
    parser.add_argument("--count", type=int, default=120)
    args = parser.parse_args()
    adapter = kronq.load(args.adapter)
    questions = load_questions(args.count)
    results: dict[str, list[Answer]] = {}
    print(f"{Path(args.adapter).name}, n = {len(questions)}")
    print(
        f"{'model':<14} {'bytes':>9} {'SNR dB':>7} {'accuracy %':>22} {'NLL/token':>10} "
        f"{'Δ NLL % (95 %)':>22} same token"
    )
    for method, bits in MODELS:
        name = f"{method}-{bits}" if bits not in (0, 32) else method
        size, snr = "–", "–"
        model = adapter
        if method in ("balanced", "rtn"):
            model = kronq.quantize(adapter, bits, method=method)  # type: ignore[arg-type]
            total = kronq.measure(adapter, model).total
            size, snr = f"{total.bytes:,}", f"{total.snr_db:.2f}"
        answers = _answers(
            f"{Path(args.adapter).name}-{name}-{args.count}", model, args.base, method, questions
        )
        results[name] = answers
        p, low, high = (100 * x for x in accuracy(answers))
        change = "–"
        if "trained" in results and name != "trained":
            change = "{:+.2f} ({:+.2f} to {:+.2f})".format(*_paired(answers, results["trained"]))
        same = agreement(answers, results["trained"]) if "trained" in results else float("nan")
        print(
            f"{name:<14} {size:>9} {snr:>7} {p:>6.1f} ({low:.1f} to {high:.1f})   "
            f"{nll_per_token(answers):>10.4f} {change:>22} {100 * same:>8.1f} %",
            flush=True,
        )


def _answers(
    key: str, model: kronq.Adapter, base: str, method: str, questions: list[dict]
) -> list[Answer]:
    cache = ROOT / ".cache" / "accuracy" / f"{key}.json"
    if not cache.exists():
        with tempfile.TemporaryDirectory(dir=Path(base).parent) as folder:
            where = Path(base)
            if method != "base":
                where = Path(folder, "model")
                kronq.export_onnx(model, base, where, form="merged", verify=False)
            answers = answer_all(kronq.Session(where), questions)
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps([asdict(a) for a in answers]))
    return [Answer(**{**a, "top": tuple(a["top"])}) for a in json.loads(cache.read_text())]


def _paired(answers: list[Answer], reference: list[Answer]) -> tuple[float, float, float]:
    """Change of the NLL a token in %, with a paired bootstrap 95 % interval over questions."""
    pairs = np.array([(a.nll, r.nll, a.tokens) for a, r in zip(answers, reference, strict=True)])
    picks = np.random.default_rng(0).integers(0, len(pairs), (10_000, len(pairs)))
    sums = pairs[picks].sum(axis=1)
    change = 100 * (sums[:, 0] / sums[:, 1] - 1)
    whole = pairs.sum(axis=0)
    return (
        100 * (whole[0] / whole[1] - 1),
        float(np.percentile(change, 2.5)),
        float(np.percentile(change, 97.5)),
    )


if __name__ == "__main__":
    main()
