"""Bytes of whole files and SNR of ΔW, of kronq and of other tools on one adapter.

python -m benchmarks.baseline_tools [ADAPTER …]

``results`` returns each quantized adapter, for benchmarks that measure more, such as task loss.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kronq
from benchmarks import baselines
from kronq.model.adapter import Adapter
from kronq.quantization.config_names import config_for

ADAPTER = Path(__file__).parents[1] / "examples" / "arc-easy-lokr-r8"
KRONQ: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("fp16", (16,)),
    ("rtn", (8, 4, 3, 2)),
    ("balanced", (8, 4, 3, 2)),
    ("compact", (5, 4, 3, 2, 1.5, 1, 0.5)),
)


@dataclass(frozen=True, eq=False)
class Made:
    """A quantized adapter, the bytes of its file with and without the header, and its SNR."""

    label: str
    adapter: Adapter
    nbytes: int
    payload: int
    snr_db: float | None


def results(adapter: Adapter) -> dict[str, tuple[Adapter, int]]:
    """Returns label → (quantized adapter, bytes of its file): kronq's methods, then baselines."""
    return {made.label: (made.adapter, made.nbytes) for made in every(adapter)}


def every(adapter: Adapter) -> Iterator[Made]:
    """Yields kronq's methods at several widths, then the baselines that are installed."""
    for method, widths in KRONQ:
        for bits in widths:
            quantized = kronq.quantize(adapter, config_for(method, bits))
            total = kronq.measure(adapter, quantized).total
            label = f"kronq {method} {bits:g}"
            yield Made(label, quantized, total.bytes, quantized.nbytes, total.snr_db)
    for baseline in baselines.installed():
        made = baseline.run(adapter)
        snr = kronq.measure(adapter, made.adapter).total.snr_db
        yield Made(baseline.name, made.adapter, made.nbytes, made.payload, snr)


def main(*paths: str) -> None:
    for line in baselines.missing():
        print(line)
    for path in paths or (str(ADAPTER),):
        adapter = kronq.load(path)
        print(f"{Path(path).name}, {adapter.parameters:,} parameters")
        print("| | bytes | without header | bits / parameter | SNR of ΔW, dB |")
        print("|---|---|---|---|---|")
        for made in every(adapter):
            snr = "exact" if made.snr_db is None else f"{made.snr_db:.2f}"
            bits = f"{8 * made.nbytes / adapter.parameters:.2f}"
            print(
                f"| {made.label} | {made.nbytes:,} | {made.payload:,} | {bits} | {snr} |",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
