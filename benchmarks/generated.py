"""Generated adapters: from state dicts in memory to the bytes of packed files, adapters a minute.

    python -m benchmarks.generated

LoRA of rank 8 on all seven linear layers of SmolLM2-135M's 30 blocks, in bfloat16. Each method is
a process of its own with one thread, and its time is CPU time, which other processes disturb least.
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


def main() -> None:
    print(f"LoRA-8 of SmolLM2-135M from memory to packed bytes, {ADAPTERS} each, one thread:")
    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for method in METHODS:
        command = [sys.executable, "-m", "benchmarks.generated", method]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=one)
        seconds = sorted(map(float, done.stdout.split()))
        print(
            f"  {method} 4 bit: {60 / seconds[len(seconds) // 2]:,.0f} a minute of CPU time "
            f"({60 / seconds[-1]:,.0f} to {60 / seconds[0]:,.0f})"
        )


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


def _one(method: str) -> None:
    kronq.pack(_quantized(state_dict(0, blocks=1), method))  # imports, and tables made once
    for seed in range(1, ADAPTERS + 1):
        tensors = state_dict(seed)
        start = time.process_time()
        kronq.pack(_quantized(tensors, method))
        print(time.process_time() - start)


def _quantized(tensors: Mapping[str, Any], method: str) -> kronq.Adapter:
    return kronq.quantize(kronq.Adapter.from_state_dict(tensors, CONFIG), METHODS[method])


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _one(sys.argv[1])
    else:
        main()
