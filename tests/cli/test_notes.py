"""Notes on stderr: what is strange, and done all the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from tests.cli.command import Kronq


def retarget(folder: Path, *modules: str) -> Path:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": modules}))
    return folder


def test_a_list_of_modules_for_many_models(kronq: Kronq, trained: Path, out: Path) -> None:
    retarget(trained, "q_proj", "v_proj", "c_attn")
    line = (
        f"kronq: note: {trained / 'adapter_model.safetensors'}: no layer is one of these "
        "target_modules: c_attn: the base has none, or the file has lost them\n"
    )
    for verb in (
        ["inspect"],
        ["quantize", "-o", out / "q.safetensors"],
        ["convert", "--to", "peft", "-o", out / "p"],
    ):
        result = kronq(verb[0], trained, *verb[1:])
        assert (result.code, result.err) == (0, line)
    assert kronq("inspect", trained, "-q").err == ""
    assert kronq("inspect", trained, "--json").json()
    retarget(trained, "q_proj", "v_proj", "c_attn\x1b[2J")
    assert "\x1b" not in kronq("inspect", trained).err


def test_ranks_that_not_every_loader_reads(kronq: Kronq, trained: Path, out: Path) -> None:
    """vLLM takes one rank for all layers; PEFT and llama.cpp read each layer's."""
    assert kronq("convert", trained, "--to", "lora", "-o", out / "same").err == ""
    weights = trained / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lokr_w1"
    tensors[name] = np.outer(tensors[name][:, 0], tensors[name][0])  # of rank 1, so 4 instead of 16
    safetensors.numpy.save_file(tensors, weights)
    result = kronq("convert", trained, "--to", "lora", "-o", out / "mixed")
    assert (result.code, result.err) == (
        0,
        f"kronq: note: {out / 'mixed'} has layers of rank 4, 16: PEFT and llama.cpp read each "
        "layer's rank, vLLM takes one for all\n",
    )
    config = json.loads((out / "mixed" / "adapter_config.json").read_text())
    assert (config["r"], len(config["rank_pattern"]), config["alpha_pattern"]) == (16, 1, {})
    assert kronq("convert", trained, "--to", "lora", "-o", out / "quiet", "-q").err == ""
    assert kronq("convert", trained, "--to", "peft", "-o", out / "peft").err == ""
