"""A llama of two small layers: built in seconds, wrong in everything it says.

Each folder is built once in a test run, whichever of its processes needs it first.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LLAMA = ("fp32", "fp32 fused whole", "fp16", "fp16 fused", "int4", "int4 fused whole", "int4 fast")
"""Bases that onnxruntime-genai's builder makes of the tiny llama.

In ``fused`` ones q, k and v are one MatMul, in ``whole`` ones gate and up.
"""
VOCABULARY = 258


@pytest.fixture(scope="session")
def once_per_run(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function of a name and a maker: the folder, made once for all processes of a test run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        filelock = pytest.importorskip("filelock")
        folder, done = shared / f"once-{name}", shared / f"once-{name}.done"
        with filelock.FileLock(shared / f"once-{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def tiny_hf(once_per_run) -> Path:
    """A Hugging Face folder with random weights and a byte-level tokenizer."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return once_per_run("tiny", lambda out: save_tiny_llama(out / "hf")) / "hf"


def save_tokenizer(folder: Path) -> None:
    """Saves a tokenizer of ``VOCABULARY`` tokens: bytes, and two that begin and end a text."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()

    special = {"bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(
        folder
    )


def save_tiny_llama(folder: Path) -> None:
    import torch
    import transformers

    save_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_build(tiny_hf, once_per_run):
    """The tiny llama as a model folder, float32: the report, and the steps that were told."""
    from kronq.base.build import build_base

    def make(out: Path) -> None:
        steps: list[str] = []
        report = build_base(tiny_hf, out / "bases" / "tiny", progress=steps.append)
        (out / "told.pickle").write_bytes(pickle.dumps((report, steps)))

    return pickle.loads((once_per_run("tiny-base", make) / "told.pickle").read_bytes())  # noqa: S301


@pytest.fixture(scope="session")
def tiny_base(tiny_build) -> Path:
    return tiny_build[0].path


@pytest.fixture(scope="session")
def llama_bases(tiny_hf, once_per_run) -> Path:
    """A folder with the tiny llama as each of ``LLAMA``."""
    pytest.importorskip("onnxruntime_genai")
    return once_per_run("llama-bases", lambda out: build(tiny_hf, out, *LLAMA))


# One process for all of them: importing takes most of the time.
BUILD = """
import sys
from onnxruntime_genai.models.builder import create_model, parse_extra_options
hf, out, *names = sys.argv[1:]
for name in names:
    precision, *how = name.split()
    place = (precision, "cuda" if precision == "fp16" else "cpu", f"{out}/cache")
    told = ["hf_token=false", f"fuse_qkv={'fused' in how}".lower()]
    told += ["fuse_mlp_gate_up=true"] if "whole" in how else []
    told += [f"accuracy_level={4 if 'fast' in how else 0}"] if precision == "int4" else []
    options = parse_extra_options("", hf, f"{out}/{name}", *place, told)
    create_model("", hf, f"{out}/{name}", *place, **options)
"""


def build(hf: Path, out: Path, *names: str) -> None:
    """Folders by onnxruntime-genai's builder, each called what it is made like."""
    command = [sys.executable, "-P", "-c", BUILD, str(hf), str(out), *names]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=os.environ | offline)
