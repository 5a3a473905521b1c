"""Agreement of a lossy base with its source on real text."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kronq.genai.logits import kl_divergences
from kronq.genai.session import Session
from kronq.io.json_file import read_json

SUFFICIENT = 0.95
"""Share of equal top tokens below which a base answers differently from its source."""
MAX_TOKENS = 384
TEXT = """\
Plants take in carbon dioxide from the air through small openings in their leaves and water through
their roots. With the energy of sunlight they turn both into sugar and oxygen. The sugar feeds the
plant, and the oxygen goes back into the air, where animals and people breathe it. At night, without
light, the process stops, but the plant goes on breathing like every other living thing.

Question: Why does a metal spoon in a cup of hot tea feel warmer than a wooden one?
Answer: Metal conducts heat well, so the heat of the tea travels along the spoon to your fingers.
Wood is a poor conductor, and most of the heat stays in the cup.

The village lay at the end of a long valley. In winter the road was closed for weeks, and the post
came on skis, if it came at all. Nobody complained. There was wood for the stoves, there was bread,
and in the evenings the neighbours sat together and told each other the same stories as last year.

def mean(numbers):
    total = 0
    for number in numbers:
        total += number
    return total / len(numbers)
"""


@dataclass(frozen=True)
class Agreement:
    """Agreement of a base's predictions with its source's in float32, after every token of a text.

    Attributes:
        tokens: Number of tokens of the text.
        same_token: Share of positions at which both have the same likeliest token.
        kl: Mean Kullback–Leibler divergence of the base from the source, in nats a token.
    """

    tokens: int
    same_token: float
    kl: float

    @property
    def sufficient(self) -> bool:
        return self.same_token >= SUFFICIENT


def measure_agreement(base: Path, hf_folder: Path) -> Agreement:
    """Runs a base in ONNX Runtime and its Hugging Face source in torch, both on the CPU.

    Args:
        base: The folder that was built.
        hf_folder: The Hugging Face folder that it was built from.
    """
    session = Session(base, device="cpu")
    config = read_json(hf_folder / "config.json")
    stated = config.get("max_position_embeddings")
    context = stated if isinstance(stated, int) and stated > 0 else MAX_TOKENS
    tokens = session.tokenize(TEXT)[: min(context, MAX_TOKENS)]
    return compare_logits(_source_logits(hf_folder, tokens), session.logits(tokens)[0])


def compare_logits(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> Agreement:
    """Compares two models' logits [tokens, vocabulary] for the same text."""
    return Agreement(
        tokens=len(reference),
        same_token=float(np.mean(reference.argmax(-1) == logits.argmax(-1))),
        kl=float(np.mean(kl_divergences(reference, logits))),
    )


def _source_logits(hf_folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    import torch
    from transformers import AutoModelForCausalLM

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        model = AutoModelForCausalLM.from_pretrained(
            hf_folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    with torch.inference_mode():
        logits: NDArray[np.float32] = model.eval()(torch.tensor([tokens])).logits[0].numpy()
    return logits
