"""Task accuracy of an adapter at every width, on ARC-Easy test questions, in ONNX Runtime.

    python -m benchmarks.accuracy [ADAPTER] [--base DIR] [--tasks FILE] [--count N]

Scores are kept in .cache/accuracy/, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import kronq
from kronq.evaluate.cache import Scorer, TaskCache
from kronq.evaluate.metrics import metric_changes, task_metrics
from kronq.evaluate.score import top_token_agreement
from kronq.evaluate.task_model import TaskModel
from kronq.io.examples import read_examples
from kronq.quantization.config_names import config_for
from kronq.report.display.task_view import format_change
from kronq.report.task import Interval

ROOT = Path(__file__).parents[1]
WIDTHS = [("balanced", 8), ("balanced", 4), ("balanced", 3), ("balanced", 2)]
WIDTHS += [("rtn", 4), ("rtn", 3), ("rtn", 2)]
SIZES = (160_000, 115_000, 77_000, 58_000, 46_000)

Model = tuple[str, kronq.Adapter | None, str, str]
"""Name, adapter, bytes, SNR of ΔW in dB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", nargs="?", default=str(ROOT / "examples/arc-easy-lokr-r8"))
    parser.add_argument("--base", default=str(ROOT / ".demo/base"), help="an ONNX base folder")
    parser.add_argument("--tasks", default=str(ROOT / "examples/questions.jsonl"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    adapter = kronq.load(args.adapter)
    examples = read_examples(args.tasks)[: args.count]
    model = TaskModel(args.base, threads=args.threads)
    scores = Scorer(model, TaskCache(ROOT / ".cache" / "accuracy"))
    choices = any(len(example.choices) > 1 for example in examples)
    trained = scores(adapter, examples, choices=choices)
    print(f"{Path(args.adapter).name}, {Path(args.tasks).name}, n = {len(examples)}")
    print(
        f"{'model':<14} {'bytes':>9} {'SNR dB':>7} {'accuracy % (95 %)':>22} "
        f"{'recall % (95 %)':>22} {'NLL/token':>10} {'Δ NLL (95 %)':>26} same token"
    )
    for name, quantized, size, snr in _models(adapter):
        found = scores(quantized, examples, choices=choices)
        told = task_metrics(found)
        changed = "–"
        if quantized is not adapter:
            changed = format_change(metric_changes(found, trained).loss_increase)
        agreed = 100 * top_token_agreement(found, trained)
        print(
            f"{name:<14} {size:>9} {snr:>7} {_share(told.accuracy):>22} {_share(told.recall):>22} "
            f"{told.nll_per_token:>10.4f} {changed:>26} {agreed:>8.1f} %",
            flush=True,
        )


def _models(adapter: kronq.Adapter) -> Iterator[Model]:
    yield "no adapter", None, "–", "–"
    yield "as trained", adapter, f"{adapter.origin.file_bytes:,}", "–"
    for method, bits in WIDTHS:
        quantized = kronq.quantize(adapter, config_for(method, bits))
        yield f"{method} {bits} bit", quantized, *_figures(adapter, quantized)
    for size in SIZES:
        quantized = kronq.quantize(adapter, kronq.Compact(size=size))
        yield f"compact {size // 1000} kB", quantized, *_figures(adapter, quantized)


def _figures(adapter: kronq.Adapter, quantized: kronq.Adapter) -> tuple[str, str]:
    total = kronq.measure(adapter, quantized).total
    return f"{total.bytes:,}", f"{total.snr_db:.2f}"


def _share(found: Interval | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


if __name__ == "__main__":
    main()
