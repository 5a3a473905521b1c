"""``make bench``: the figures in docs/, measured again. Nothing here is judged by the tests.

python -m benchmarks            everything but these:
python -m benchmarks.batches    rows that each have an adapter of their own, in a pool (6 minutes)
python -m benchmarks.accuracy   120 questions at every width (about 20 minutes)
python -m benchmarks.adding     an engine's steps while adapters are added to its pool (1 minute)
python -m benchmarks.convolutions  those of Stable Diffusion with a branch (3 minutes)
python -m benchmarks.decoding   SmolLM2 with and without adapters, beside torch (8 minutes)
python -m benchmarks.floor      what open slots' operators cost a prompt at least (2 minutes)
python -m benchmarks.loading    first loads of an adapter, and from the cache (1 minute)
python -m benchmarks.pool       a pool of 10,000 adapters (3 minutes, 11 GB of disk)
python -m benchmarks.large      185 and 218 million parameters (5 minutes)
python -m benchmarks.serving  a mix of requests, pools of 1 to 10,000, beside llama.cpp (6 minutes)
python -m benchmarks.soak       100,000 steps of an engine, every text compared (15 minutes)
python -m benchmarks.training   KronLinear beside PEFT's LoKr, and kronq train's step (12 minutes)
python -m benchmarks.llama_cpp  a GGUF file beside llama.cpp, speed and agreement (10 minutes)
python -m benchmarks.wide       4-bit layers of a 7B model (2 minutes)
"""

from __future__ import annotations

import os
import platform

from benchmarks import (
    bodies,
    busy,
    disk,
    emitting,
    exporting,
    generated,
    quantizing,
    sizes,
    starting,
    swapping,
)


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    for part in (
        sizes,
        quantizing,
        generated,
        busy,
        starting,
        exporting,
        swapping,
        disk,
        bodies,
        emitting,
    ):
        part.main()
        print()


if __name__ == "__main__":
    main()
