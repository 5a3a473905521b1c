"""Training by ``KronLinear`` beside PEFT's LoKr: CPU time of a step, and memory.

python -m benchmarks.training      SmolLM2's shapes, 8 texts of 64 tokens, one thread (6 minutes)

A step is forward and backward over the whole model, which has random weights: time does not depend
on them. Sides take turns within a process; memory is the peak of a process with one side alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.turns import in_a_process, shuffled, told

SIDES = ("KronLinear", "PEFT LoKr", "PEFT LoRA")


def model(layers: int) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=layers,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )


def adapted(side: str, layers: int) -> Any:
    import peft

    from kronq import AdapterShape
    from kronq.torch import adapt_linears

    base = model(layers)
    if side == "KronLinear":
        adapt_linears(base, AdapterShape("lokr", 8))
        return base
    if side == "PEFT LoKr":
        config = peft.LoKrConfig(r=8, alpha=16, decompose_factor=4, target_modules="all-linear")
    else:
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    return peft.get_peft_model(base, config)


def step(side: Any, texts: int, tokens: int) -> Callable[[], float]:
    import torch

    ids = torch.randint(0, 49152, (texts, tokens), generator=torch.Generator().manual_seed(1))

    def run() -> float:
        begin = time.process_time()
        side(input_ids=ids, labels=ids).loss.backward()
        return time.process_time() - begin

    return run


def child(request: dict[str, Any]) -> dict[str, Any]:
    sides, rng = request["sides"], random.Random(request["seed"])  # noqa: S311
    steps = {s: step(adapted(s, request["layers"]), 8, 64) for s in shuffled(sides, rng)}
    found: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(request["turns"] + 1):
        for side in shuffled(sides, rng):
            gc.collect()
            seconds = steps[side]()
            if turn:
                found[side].append(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": {s: sorted(v)[len(v) // 2] for s, v in found.items()}, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--layers", type=int, default=30)
    args = parser.parse_args()
    ask = {"layers": args.layers, "turns": args.turns}
    runs = [
        in_a_process(__spec__.name, {**ask, "sides": SIDES, "seed": seed})["seconds"]
        for seed in range(args.processes)
    ]
    alone = {
        side: in_a_process(__spec__.name, {**ask, "turns": 1, "sides": [side], "seed": 0})["peak"]
        for side in SIDES
    }
    print(f"training, {args.layers} layers of SmolLM2's shapes, 8 × 64 tokens, one thread")
    print(f"  {'':<12} {'s a step':>9} {'of PEFT LoKr':>22} {'peak MB':>8} {'of PEFT LoKr':>13}")
    for side in SIDES:
        seconds = sorted(run[side] for run in runs)[len(runs) // 2]
        share = told([run[side] / run["PEFT LoKr"] for run in runs])
        memory = alone[side] / alone["PEFT LoKr"]
        print(f"  {side:<12} {seconds:>9.2f} {share:>22} {alone[side] / 1e6:>8.0f} {memory:>13.2f}")


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(child(json.load(sys.stdin))))
    else:
        main()
