r"""Trains the example adapter with PEFT: LoKr on ARC-Easy, as examples/arc-easy-lokr-r8 was made.

    python examples/train.py --model HF_FOLDER --data arc_easy.train.jsonl -o my-lokr
    python examples/train.py --model HF_FOLDER --data arc_easy.train.jsonl -o my-lora --family lora

Needs ``pip install 'kronq[train]'``. Each line of the data is an object with ``question``,
``choices`` and ``answer`` (an index). About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from peft import LoKrConfig, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEARNING_RATE = {"lokr": 1.5e-3, "lora": 4e-4}


def config(family: str, rank: int) -> LoKrConfig | LoraConfig:
    if family == "lokr":
        return LoKrConfig(
            r=rank,
            alpha=2 * rank,
            decompose_factor=4,
            target_modules=TARGETS,
            task_type="CAUSAL_LM",
        )
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")


def batch_of(tokenizer, rows: list[dict]) -> dict[str, torch.Tensor]:
    """Tokens padded on the right; the loss counts the answer's tokens only."""
    ids, labels = [], []
    for row in rows:
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        whole = tokenizer(f"Question: {row['question']}\nAnswer: {row['choices'][row['answer']]}")
        tokens = whole["input_ids"]
        ids.append(torch.tensor(tokens))
        labels.append(torch.tensor([-100] * len(prompt) + tokens[len(prompt) :]))
    pad = torch.nn.utils.rnn.pad_sequence
    padded = pad(ids, batch_first=True, padding_value=tokenizer.eos_token_id)
    mask = pad([torch.ones_like(t) for t in ids], batch_first=True)
    return {
        "input_ids": padded,
        "attention_mask": mask,
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--data", required=True, type=Path, help="a .jsonl file")
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--family", choices=sorted(LEARNING_RATE), default="lokr")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=140)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists")

    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model = get_peft_model(base, config(args.family, args.rank))
    model.print_trainable_parameters()
    rows = [json.loads(line) for line in args.data.open(encoding="utf-8")]
    random.Random(args.seed).shuffle(rows)

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE[args.family], weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 20, args.steps)
    model.train()
    start = time.time()
    for step in range(args.steps):
        first = step * args.batch % (len(rows) - args.batch)
        loss = model(**batch_of(tokenizer, rows[first : first + args.batch])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == args.steps - 1:
            print(
                f"step {step:4d}  loss {loss.item():.3f}  {time.time() - start:.0f} s", flush=True
            )
    model.to(torch.bfloat16).save_pretrained(args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
