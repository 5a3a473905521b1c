"""What the operator is compiled from."""

from __future__ import annotations

from pathlib import Path

from kronq.compiled.compiler import Program

PROGRAM = Program(
    name="kronq",
    folder=Path(__file__).parent,
    sources=("slots.c",),
    headers=(
        "batch.h",
        "block_products.h",
        "blocks.h",
        "kernel.h",
        "numbers.h",
        "offsets.h",
        "one_row.h",
        "ort.h",
        "pool.h",
        "processors.h",
        "product.h",
        "record.h",
        "sums.h",
    ),
    flags=("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"),
    title="the operator",
    hint="slots with {compiled=False} need none",
)
