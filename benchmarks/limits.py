"""Task loss over bytes: every baseline and kronq's files, on one adapter.

    python -m benchmarks.limits ADAPTER --tasks FILE [--base DIR] [--count N] [PACKED ...]

PACKED are further files of the same adapter, tuned ones for example. Scores are kept in
.cache/accuracy/, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import kronq
from benchmarks import baselines
from kronq.evaluate.cache import Scorer, TaskCache
from kronq.evaluate.metrics import metric_changes, task_metrics
from kronq.evaluate.task_model import TaskModel
from kronq.io.examples import read_examples
from kronq.report.display.task_view import format_change

ROOT = Path(__file__).parents[1]
ENOUGH = 0.01


Model = tuple[str, kronq.Adapter, int, bool]
"""Name, adapter, bytes, and whether another tool made it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("adapter")
    parser.add_argument("packed", nargs="*")
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--base", default=str(ROOT / ".demo/base"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--skip", type=int, default=0, help="examples at the start, left out")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--bits", default="2,1,0.75,0.5", help="of compact files, by parameter")
    parser.add_argument("--all", action="store_true", help="larger baselines, too")
    args = parser.parse_args()
    adapter = kronq.load(args.adapter)
    examples = read_examples(args.tasks)[args.skip :][: args.count]
    scores = Scorer(TaskModel(args.base, threads=args.threads), TaskCache(ROOT / ".cache/accuracy"))
    trained = scores(adapter, examples, choices=False)
    shares = [float(text) for text in args.bits.split(",")]
    print(f"{Path(args.adapter).name}, {Path(args.tasks).name}, n = {len(examples)}")
    print(f"as trained: NLL {task_metrics(trained).nll_per_token:.4f} a token\n")
    print("| | bytes | Δ NLL (95 %) |")
    print("|---|---|---|")
    for label, made, nbytes, other in _models(adapter, args.packed, shares):
        lost = metric_changes(scores(made, examples, choices=False), trained).loss_increase
        print(f"| {label} | {nbytes:,} | {format_change(lost)} |", flush=True)
        if other and lost.value <= ENOUGH and not args.all:
            break  # the smallest of them that is good enough: larger ones need no measuring


def _models(adapter: kronq.Adapter, packed: list[str], shares: list[float]) -> Iterator[Model]:
    for path in packed:
        made = kronq.load(path)
        assert made.recipe is not None
        yield f"kronq {made.recipe.method}", made, made.origin.file_bytes, False
    for refit in ("unbiased", "fit"):
        for bits in shares:
            made = kronq.quantize(adapter, kronq.Compact(bpw=bits, refit=refit))
            yield f"kronq compact, {refit}", made, kronq.measure(adapter, made).total.bytes, False
    for bits in (4, 2):
        made = kronq.quantize(adapter, bits=bits)
        yield f"kronq native {bits} bit", made, kronq.measure(adapter, made).total.bytes, False
    found = [(baseline.name, baseline.run(adapter)) for baseline in baselines.installed()]
    for name, result in sorted(found, key=lambda each: each[1].nbytes):
        yield name, result.adapter, result.nbytes, True


if __name__ == "__main__":
    main()
