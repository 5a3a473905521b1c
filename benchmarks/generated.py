"""Generated adapters: from state dicts in memory to the bytes of packed files, adapters a minute.

    python -m benchmarks.generated

LoRA of rank 8 on all seven linear layers of SmolLM2-135M's 30 blocks, in bfloat16. Each method is
a process of its own with one thread, and its time is CPU time, which other processes disturb least;
then a stream of adapters in two processes. About three minutes on two idle processors.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

import kronq
from kronq.quantization.configs import Config

ADAPTERS = 5
CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
LINEARS = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (192, 576),
    "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (1536, 576),
    "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}
METHODS: Mapping[str, Config] = {
    "fp16": kronq.Float16(),
    "rtn": kronq.Uniform(4, "rtn"),
    "balanced": kronq.Uniform(4),
    "native": kronq.Native(bits=4),
    "compact": kronq.Compact(bpw=4),
}


STREAM = {"compact": 150, "native": 800, "rtn": 2000}
"""Adapters of a stream, of which the start of its processes is a small part; 100 of the others."""


def main() -> None:
    print(f"LoRA-8 of SmolLM2-135M from memory to packed bytes, {ADAPTERS} each, one thread:")
    for method in METHODS:
        seconds = sorted(map(float, _run(method, "alone").split()))
        print(
            f"  {method} 4 bit: {60 / seconds[len(seconds) // 2]:,.0f} a minute of CPU time "
            f"({60 / seconds[-1]:,.0f} to {60 / seconds[0]:,.0f})"
        )
    print(
        "A stream of them, pack_many(workers=2): by the wall clock, and CPU time of all processes:"
    )
    for method in METHODS:
        minute, cpu = _run(method, "stream").split()
        print(f"  {method} 4 bit: {float(minute):,.0f} a minute, {float(cpu):.0f} ms of CPU each")


def _run(method: str, what: str) -> str:
    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.generated", method, what]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=one).stdout


def state_dict(seed: int, blocks: int = 30, rank: int = 8) -> dict[str, Any]:
    """One adapter as a network generates it: PEFT's names, bfloat16."""
    random = np.random.default_rng(seed)
    tensors = {}
    for block in range(blocks):
        for module, (d_out, d_in) in LINEARS.items():
            name = f"base_model.model.model.layers.{block}.{module}"
            a = random.normal(0, 0.02, (rank, d_in))
            b = random.normal(0, 0.01, (d_out, rank)) * np.geomspace(1, 0.2, rank)
            tensors[f"{name}.lora_A.weight"] = a.astype(ml_dtypes.bfloat16)
            tensors[f"{name}.lora_B.weight"] = b.astype(ml_dtypes.bfloat16)
    return tensors


def _alone(method: str) -> None:
    kronq.pack(_quantized(state_dict(0, blocks=1), method))  # imports, and tables made once
    for seed in range(1, ADAPTERS + 1):
        tensors = state_dict(seed)
        start = time.process_time()
        kronq.pack(_quantized(tensors, method))
        print(time.process_time() - start)


def _stream(method: str) -> None:
    """Prints the adapters a minute, the start of the processes included, and their CPU time."""
    generated = [state_dict(seed) for seed in range(6)]
    count = STREAM.get(method, 100)
    adapters = (kronq.Adapter.from_state_dict(generated[i % 6], CONFIG) for i in range(count))
    start, used = time.perf_counter(), _cpu_seconds()
    made = sum(1 for _ in kronq.pack_many(adapters, METHODS[method], workers=2))
    print(60 * made / (time.perf_counter() - start), 1000 * (_cpu_seconds() - used) / made)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _quantized(tensors: Mapping[str, Any], method: str) -> kronq.Adapter:
    return kronq.quantize(kronq.Adapter.from_state_dict(tensors, CONFIG), METHODS[method])


if __name__ == "__main__":
    if len(sys.argv) == 3:
        {"alone": _alone, "stream": _stream}[sys.argv[2]](sys.argv[1])
    else:
        main()
