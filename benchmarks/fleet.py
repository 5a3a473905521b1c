"""A fleet of generated adapters, quantized by Ray Data on all CPUs: into a pool, or packed files.

    python -m benchmarks.fleet FOLDER [--adapters 10000] [--methods native …] [--to pool files]

Needs 'kronq[ray]'. Each adapter is a Kron-LoRA of rank 8 on all seven linear layers of the 30
blocks of SmolLM2-135M, in bfloat16, made in memory from its number as a network would make it, and
quantized in a worker of Ray. Files are written by the workers; a pool by this program alone, from
what comes back. Prints adapters a minute by the clock, and the CPU time of all processes for each.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil

import kronq
from benchmarks.generated import LINEARS, METHODS

CONFIG = {"peft_type": "LOKR", "r": 8, "alpha": 16}
NAMES = {"pool": "a pool", "files": "packed files"}
BLOCKS, RANK, FACTOR, BATCH = 30, 8, 8, 25


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where pools and files are made, and deleted")
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["native"])
    parser.add_argument("--to", nargs="+", choices=("pool", "files"), default=["pool"])
    parser.add_argument("--keep", action="store_true", help="does not delete them")
    args = parser.parse_args(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    import ray

    ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    to_pool(args.folder / "warm", "rtn", 4)  # workers and their imports
    shutil.rmtree(args.folder / "warm")
    for method in args.methods:
        for target in args.to:
            made = args.folder / f"{method}-{target}"
            start, used = time.perf_counter(), _cpu_seconds()
            {"pool": to_pool, "files": to_files}[target](made, method, args.adapters)
            minutes = (time.perf_counter() - start) / 60
            cpu = (_cpu_seconds() - used) / args.adapters
            size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
            print(
                f"{args.adapters:,} adapters, {method} 4 bit, to {NAMES[target]}: "
                f"{args.adapters / minutes:,.0f} a minute by the clock, {1e3 * cpu:.0f} ms of CPU "
                f"time each, {size / args.adapters:,.0f} bytes each",
                flush=True,
            )
            if not args.keep:
                shutil.rmtree(made)


def to_files(folder: Path, method: str, count: int) -> None:
    """Writes packed files, each by the worker that made it."""
    import ray

    folder.mkdir()
    write = partial(_write, folder=str(folder.resolve()), method=method)
    rows = ray.data.range(count).map_batches(write, batch_size=BATCH)
    assert sum(len(batch["id"]) for batch in rows.iter_batches()) == count


def to_pool(folder: Path, method: str, count: int) -> None:
    """Adds adapters to a pool in the order in which workers are done with them."""
    import ray

    rows = ray.data.range(count).map_batches(partial(_quantize, method=method), batch_size=BATCH)
    with kronq.Pool.open(folder, create=True) as pool:
        pool.add_many((f"adapter-{row['id']}", row["adapter"]) for row in rows.iter_rows())
        assert len(pool) == count


def _write(batch: Mapping[str, Any], folder: str, method: str) -> dict[str, Any]:
    for number, adapter in zip(batch["id"], _made(batch, method), strict=True):
        kronq.save(adapter, Path(folder) / f"adapter-{number}.safetensors")
    return {"id": batch["id"]}


def _quantize(batch: Mapping[str, Any], method: str) -> dict[str, Any]:
    adapters = np.empty(len(batch["id"]), object)
    adapters[:] = list(_made(batch, method))
    return {"id": batch["id"], "adapter": adapters}


def _made(batch: Mapping[str, Any], method: str) -> Iterator[kronq.Adapter]:
    for number in batch["id"]:
        generated = kronq.Adapter.from_state_dict(state_dict(int(number)), CONFIG)
        yield kronq.quantize(generated, METHODS[method])


def state_dict(seed: int) -> dict[str, Any]:
    """One adapter as a network generates it: PEFT's names, bfloat16."""
    random = np.random.default_rng(seed)
    tensors = {}
    for block in range(BLOCKS):
        for module, (d_out, d_in) in LINEARS.items():
            name = f"base_model.model.model.layers.{block}.{module}"
            for part, shape in (
                ("w1", (FACTOR, FACTOR)),
                ("w2_a", (d_out // FACTOR, RANK)),
                ("w2_b", (RANK, d_in // FACTOR)),
            ):
                values = random.standard_normal(shape, np.float32) * 0.1
                tensors[f"{name}.lokr_{part}"] = values.astype(ml_dtypes.bfloat16)
    return tensors


def _cpu_seconds() -> float:
    """CPU time so far of this program and of all processes that it has started."""
    mine = psutil.Process()
    return sum(
        sum(each.cpu_times()[:4])  # of its own and of its children that have ended
        for each in (mine, *mine.children(recursive=True))
    )


if __name__ == "__main__":
    main()
