"""File sizes and weight errors of the example adapter, by method and width."""

from __future__ import annotations

from pathlib import Path

import kronq

ADAPTER = Path(__file__).parents[1] / "examples" / "arc-easy-lokr-r8"


def main(*adapters: str) -> None:
    for path in adapters or (str(ADAPTER),):
        adapter = kronq.load(path)
        comparison = kronq.compare(
            {Path(path).name: adapter}, (16, 8, 4, 3, 2), methods=("rtn", "balanced")
        )
        print(f"{Path(path).name}, {adapter.parameters:,} parameters, whole files:")
        for row in comparison.rows:
            snr = "exact" if row.snr_db is None else f"{row.snr_db:.2f} dB"
            print(
                f"  {row.method:<9} {row.bits:>2} bit  {row.bytes:>9,} B  "
                f"{row.bits_per_parameter:.3f} bit/parameter  {snr}"
            )


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
