"""Adapters for the tiny llama, and questions for both."""

from __future__ import annotations

import random
import string

import numpy as np

from kronq.io.examples import Example
from kronq.model.adapter import Adapter, Origin
from kronq.model.delta import ONE, Delta, Product
from tests.adapters import matrix

SHAPES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.v_proj": (32, 64),
    "mlp.down_proj": (64, 96),
}


def tiny_adapter(family: str = "kron", seed: int = 0, rank: int = 4, size: float = 0.2) -> Adapter:
    """Layers of the tiny llama and its lm_head, of every kind of factors."""
    rng = np.random.default_rng(seed)

    def layer(d_out: int, d_in: int) -> Delta:
        if family == "lora":
            b = Product(matrix(rng, d_out, rank), matrix(rng, rank, d_in))
            return Delta(ONE, b, size, (d_out, d_in))
        b_out, b_in = d_out // 2, d_in // 4
        pair = [matrix(rng, b_out, rank), matrix(rng, rank, b_in)]
        b = Product(matrix(rng, b_out, b_in)) if family == "full" else Product(*pair)
        a = Product(matrix(rng, 2, 4))
        if family == "split":
            a = Product(matrix(rng, 2, 2), matrix(rng, 2, 4))
        return Delta(a, b, size, (d_out, d_in))

    layers = {
        f"model.layers.{i}.{name}": layer(*shape)
        for i in range(2)
        for name, shape in SHAPES.items()
    }
    return Adapter({**layers, "lm_head": layer(258, 64)}, Origin("memory"))


def random_examples(count: int, seed: int = 0) -> list[Example]:
    """Random letters of different lengths, with two or three choices."""
    rng = random.Random(seed)  # noqa: S311

    def word(most: int) -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, most)))

    made = []
    for _ in range(count):
        choices = tuple(f" {word(8)}" for _ in range(rng.choice((2, 3))))
        made.append(Example(f"{word(20)}:", choices, rng.randrange(len(choices))))
    return made
