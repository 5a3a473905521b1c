"""A small base of another family than Llama, trained from scratch, for a second study.

python -m benchmarks.second_base OUT FILE … [--steps 4000] [--width 256]

No package with weights of another family was found in the package index, so one is made: Qwen2's
architecture (biases in q, k and v, tied embeddings), six layers, 5.5 M weights at width 256, with a
byte-level BPE of 4,096 tokens that is learned of the same files. FILE … are read as ``kronq train``
reads them; leave the questions out that a study scores. A step reads 2,048 tokens in a second
of one core: 4,000 steps are an hour. ``benchmarks/study/second.yaml`` says what its base read.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kronq.io.examples import read_examples

LENGTH, BATCH, VOCABULARY = 256, 8, 4096
RATE = 2e-3
END = "</s>"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_base")
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    texts = [example.text for file in options.files for example in read_examples(file)]
    print(make_base(options.out, texts, options.steps, options.width))


def make_base(out: Path, texts: list[str], steps: int, width: int) -> str:
    """Trains a base of ``width``, a multiple of 64, and saves it as a Hugging Face folder."""
    import torch

    if out.exists():
        raise SystemExit(f"{out} exists")
    torch.manual_seed(0)
    tokenizer = learn_tokenizer(texts)
    model = new_model(len(tokenizer), width)
    end = tokenizer.eos_token_id
    ids = [i for text in texts for i in [*tokenizer(text).input_ids, end]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    losses: list[float] = []
    for step, rows in enumerate(batches(ids, steps)):
        warm, share = min(1.0, (step + 1) / 100), step / steps
        optimizer.param_groups[0]["lr"] = RATE * warm * (0.55 + 0.45 * math.cos(math.pi * share))
        tokens = torch.tensor(rows)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {steps}: loss {sum(losses[-50:]) / 50:.3f}", flush=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return f"{out}: {model.num_parameters():,} weights, loss {sum(losses[-50:]) / 50:.3f}"


def learn_tokenizer(texts: list[str]) -> Any:
    """Returns a byte-level BPE of the texts, with a token that ends one."""
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(texts, VOCABULARY, special_tokens=[END], show_progress=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=learned._tokenizer, **dict.fromkeys(("bos_token", "eos_token"), END)
    )


def new_model(vocabulary: int, width: int) -> Any:
    """Returns a Qwen2 with random weights."""
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=6,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.Qwen2ForCausalLM(config)


def batches(ids: list[int], steps: int) -> Iterator[list[list[int]]]:
    """Yields rows of tokens from random places, the same each time."""
    rng = random.Random(0)  # noqa: S311 - to be repeated
    for _ in range(steps):
        starts = [rng.randrange(max(1, len(ids) - LENGTH)) for _ in range(BATCH)]
        yield [ids[start : start + LENGTH] for start in starts]


if __name__ == "__main__":
    main()
