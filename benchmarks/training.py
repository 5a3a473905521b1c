"""Training by ``KronLinear`` beside PEFT's LoKr: CPU time of a step, and memory.

python -m benchmarks.training      SmolLM2's shapes, one thread (12 minutes)

The model has random weights: time does not depend on them. Two tables:

The module alone: forward and backward of 8 × 64 tokens, each with its logits, over a model whose
linear layers are adapted by one or the other, at rank 8. Without an adapter nothing is trained,
but the gradient goes down to the first layer: no adapter can take less. The paper's shapes are A
[·, 2] with b_out about 200, cropped.

A whole step: ``kronq train``'s (packed rows, logits where an answer is asked for) beside PEFT's
LoKr by padded rows, as PEFT's users train, on the same batches of eight texts as long as
ARC-Easy's, with clipping and AdamW.

Sides take turns within a process; memory is the peak of a process with one side alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.turns import in_a_process, shuffled, told

LOKR, LORA, KRON = "KronLinear, LoKr", "KronLinear, LoRA", "KronLinear, paper's"
ALONE = ("no adapter", LOKR, KRON, LORA, "PEFT LoKr", "PEFT LoRA")
WHOLE = ("kronq train", "PEFT LoKr, padded")
VOCABULARY = 49152

Step = Callable[[], float]
"""Takes a step, and returns its CPU seconds."""


def model(layers: int) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
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
    if side == "no adapter":
        base.requires_grad_(False).enable_input_require_grads()
        return base
    families = {LOKR: "lokr", LORA: "lora", KRON: "kron", "kronq train": "lokr"}
    if side in families:
        adapt_linears(base, AdapterShape(families[side], 8))
        return base
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    lokr = peft.LoKrConfig(r=8, alpha=16, decompose_factor=4, target_modules="all-linear")
    return peft.get_peft_model(base, lora if side == "PEFT LoRA" else lokr)


def make_step(side: str, layers: int) -> Step:
    trained = adapted(side, layers)
    return step(trained, 8, 64) if side in ALONE else whole_step(trained, side == "kronq train")


def step(side: Any, texts: int, tokens: int) -> Step:
    import torch

    ids = torch.randint(0, VOCABULARY, (texts, tokens), generator=torch.Generator().manual_seed(1))

    def run() -> float:
        begin = time.process_time()
        side(input_ids=ids, labels=ids).loss.backward()
        return time.process_time() - begin

    return run


def whole_step(side: Any, packed: bool) -> Step:
    import torch

    from kronq.torch.training.rows import pack_rows
    from kronq.torch.training.steps import add_gradients

    trained = [each for each in side.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    rng = random.Random(2)  # noqa: S311 - to be repeated

    def run() -> float:
        batch = questions(rng)
        begin = time.process_time()
        if packed:
            add_gradients(side, batch, pack_rows)
        else:
            side(**padded(batch)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - begin

    return run


def questions(rng: random.Random) -> list[Any]:
    """Returns eight texts: 11 to 95 tokens, 31 in the mean, 4.5 of them the answer."""
    from kronq.calibration.batches import TokenSequence

    found = []
    for _ in range(8):
        length = min(95, max(11, round(rng.lognormvariate(3.34, 0.42))))
        answer = min(length - 8, 1 + round(rng.expovariate(1 / 3.5)))
        ids = [rng.randrange(VOCABULARY) for _ in range(length)]
        found.append(TokenSequence(tuple(ids), length - answer))
    return found


def padded(batch: Sequence[Any]) -> dict[str, Any]:
    """Returns the same texts as transformers' collators make them for PEFT."""
    import torch

    width = max(len(each.ids) for each in batch)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for each in batch:
        length, rest = len(each.ids), width - len(each.ids)
        rows["input_ids"].append([*each.ids, *[0] * rest])
        rows["attention_mask"].append([1] * length + [0] * rest)
        rows["labels"].append([-100] * each.start + [*each.ids[each.start :]] + [-100] * rest)
    return {name: torch.tensor(values) for name, values in rows.items()}


def child(request: dict[str, Any]) -> dict[str, Any]:
    sides, rng = request["sides"], random.Random(request["seed"])  # noqa: S311
    steps = {s: make_step(s, request["layers"]) for s in shuffled(sides, rng)}
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
    print(f"training, {args.layers} layers of SmolLM2's shapes, one thread\n")
    measure("the module alone, 8 × 64 tokens", ALONE, ("PEFT LoKr", "no adapter"), args)
    print()
    measure("a whole step, 8 texts of 11 to 95 tokens", WHOLE, WHOLE[1:], args)


def measure(title: str, sides: Sequence[str], to: Sequence[str], args: argparse.Namespace) -> None:
    ask = {"layers": args.layers, "turns": args.turns}
    runs = [
        in_a_process(__spec__.name, {**ask, "sides": sides, "seed": seed})["seconds"]
        for seed in range(args.processes)
    ]
    alone = {
        side: in_a_process(__spec__.name, {**ask, "turns": 1, "sides": [side], "seed": 0})["peak"]
        for side in sides
    }
    heads = "".join(f" {'of ' + other:>22}" for other in to)
    print(f"{title}\n  {'':<20} {'s a step':>9}{heads} {'peak MB':>8}")
    for side in sides:
        seconds = sorted(run[side] for run in runs)[len(runs) // 2]
        shares = "".join(f" {told([run[side] / run[o] for run in runs]):>22}" for o in to)
        print(f"  {side:<20} {seconds:>9.2f}{shares} {alone[side] / 1e6:>8.0f}", flush=True)


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(child(json.load(sys.stdin))))
    else:
        main()
