"""``python -m benchmarks.decoding_sides``: one process of ``decoding``.

Reads a request as JSON from stdin and writes medians as JSON to stdout: one set of times for the
sides in onnxruntime-genai, and where asked for one for the base beside torch.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.turns import BASE, Plan, Sides, Text, shuffled, take_turns
from kronq.genai.bench.timed_model import TimedModel, open_timed_model
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import ExecutionTarget

TORCH, TORCH_BASE = "PEFT in torch", "base in torch"


def main(request: dict[str, Any]) -> dict[str, Any]:
    rng = random.Random()  # noqa: S311
    sides = _open(request, rng)
    found = [take_turns(sides, Plan(**request["plan"]), rng)]
    if request["torch"] is not None:
        few = {BASE: sides[BASE], **_torch_sides(request)}
        found.append(take_turns(few, Plan(rounds=1, bursts=1, steps=4), rng))
    return {"base": request["base"], "threads": request["threads"], "times": found}


def _open(request: dict[str, Any], rng: random.Random) -> Sides:
    """Opens each session once, in random order, however many sides it has."""
    import onnxruntime_genai as og

    opened: dict[str, TimedModel] = {}
    starts: dict[str, dict[str | None, Callable[[], Text]]] = {}
    for label in shuffled(request["sessions"], rng):
        folder = request["sessions"][label]
        model = open_timed_model(find_model(folder), ExecutionTarget(threads=request["threads"]))
        adapters = og.Adapters(model.text_model.genai)
        files = {file for _, of, files in request["sides"] if of == label for file in files}
        for file in files:
            adapters.load(file, file)
        opened[label] = model
        starts[label] = {
            name: partial(_text, model, adapters, name, request["tokens"])
            for name in (None, *files)
        }
    sides: dict[str, Callable[[], Text]] = {}
    for name, label, files in request["sides"]:
        one, *other = [starts[label][file] for file in files or [None]]
        sides[name] = partial(_by_turns, one, *other) if other else one
    return sides


def _text(model: TimedModel, adapters: Any, adapter: str | None, tokens: tuple[int, int]) -> Text:
    """Greedy, and never ended early; an adapter is chosen once, before the first token."""
    import onnxruntime_genai as og

    prompt, longest = tokens
    params = og.GeneratorParams(model.text_model.genai)
    params.set_search_options(max_length=longest, min_length=longest, do_sample=False)
    generator = og.Generator(model.text_model.genai, params)
    if adapter is not None:
        generator.set_active_adapter(adapters, adapter)
    ids = _prompt(model.text_model.files.genai["model"]["vocab_size"], prompt)

    def write() -> Iterator[None]:
        generator.append_tokens(ids.astype(np.int32))
        while True:
            generator.generate_next_token()
            yield

    return write()


def _by_turns(one: Callable[[], Text], other: Callable[[], Text]) -> Text:
    """Two texts, each with its adapter, that take turns at every token.

    onnxruntime-genai cannot change the adapter within one text: a second one that is made active
    there is active beside the first.
    """
    first, second = one(), other()
    next(second)

    def write() -> Iterator[None]:
        while True:
            for text in (first, second):
                next(text)
                yield

    return write()


def _torch_sides(request: dict[str, Any]) -> Sides:
    """Times the base in torch, and the adapter as PEFT runs it: ΔW is rebuilt each time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(request["threads"])
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    # Two copies: PEFT changes the model it is given.
    plain, under = (
        AutoModelForCausalLM.from_pretrained(request["torch"]["base"], dtype=torch.float32)
        for _ in "ab"
    )
    adapted = PeftModel.from_pretrained(under, request["torch"]["adapter"])
    return {
        TORCH_BASE: partial(_torch_text, plain.eval(), request["tokens"][0]),
        TORCH: partial(_torch_text, adapted.eval(), request["tokens"][0]),
    }


def _torch_text(model: Any, prompt: int) -> Text:
    """Generates a text with a KV cache in torch, and times it as ``_text`` does."""
    import torch

    ids, cache = torch.from_numpy(_prompt(model.config.vocab_size, prompt)[None]), None
    while True:
        with torch.inference_mode():
            found = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, ids = found.past_key_values, found.logits[:, -1:].argmax(-1)
        yield


def _prompt(vocabulary: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, tokens)


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
