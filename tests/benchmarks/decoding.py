"""What an adapter on all seven linear layers costs while a text is made, beside what others do.

    python -m tests.benchmarks.decoding [BASE ...] [--threads 1 2] [--rounds 7]

Every base is timed without an adapter, with it in each form, and with a LoRA of rank 8 as
onnxruntime-genai's own builder puts it into the graph; a float32 base also beside the same adapter
in torch, as PEFT runs it. All take turns in one process and read the same tokens.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

import kronq
from kronq.adapter import Adapter
from kronq.runtime.machine import this_machine
from kronq.runtime.model_files import find_model
from kronq.runtime.providers import Place
from kronq.runtime.timed_text import TextModel, Work, open_text_model
from kronq.runtime.timing import Sample, Spread, ratio, take_turns
from kronq.targets.onnx import Form
from kronq.targets.onnx_adapter import write_onnx_adapter
from tests.benchmarks.lora_chain import write_lora_chain
from tests.benchmarks.sizes import ADAPTER

ROOT = Path(__file__).parents[2]
BASE, HF = ROOT / ".demo" / "base", ROOT / ".cache" / "hf"
NO_ADAPTER, TORCH, TORCH_BASE = "base", "PEFT", "torch base"

Sides = Mapping[str, Callable[[], Sample]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bases", nargs="*", default=[str(BASE)])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args(arguments)
    work = Work(args.prompt_tokens, args.new_tokens)
    machine = this_machine()
    print(f"{machine.cpu}, {machine.cores} cores, onnxruntime {machine.onnxruntime}")
    print(f"{work.prompt_tokens} tokens, {work.new_tokens} new, {args.rounds} rounds")
    for base in map(Path, args.bases):
        if not base.is_dir():
            print(f"Decoding: no base at {base}; 'make demo' builds one")
            continue
        with tempfile.TemporaryDirectory(dir=base.resolve().parent) as scratch:
            folders = _write(base, kronq.load(ADAPTER), Path(scratch))
            for threads in args.threads:
                sides = _open(folders, threads, work)
                if base == BASE and HF.is_dir() and not args.no_torch:
                    sides |= _torch_sides(threads, work)
                _print(base, threads, sides, args.rounds)


def _write(base: Path, adapter: Adapter, scratch: Path) -> dict[str, tuple[Path, Path | None]]:
    """Side → its model folder, and the file of the adapter that goes into its slots."""
    found: dict[str, tuple[Path, Path | None]] = {NO_ADAPTER: (base, None)}
    for form in get_args(Form):
        try:
            kronq.export_onnx(adapter, base, scratch / form, form=form, verify=False)
        except kronq.KronqError as error:
            print(f"  {form}: not made of {base.name}: {error}")
            continue
        found[form] = (scratch / form, None)
        if form == "slots":
            found["slots, empty"] = found[form]
            file = write_onnx_adapter(adapter, scratch / form, scratch / "timed.onnx_adapter")
            found[form] = (scratch / form, file)
    write_lora_chain(base, scratch / "lora-8", rank=8)
    found["LoRA-8 as genai's"] = (scratch / "lora-8", None)
    return found


def _open(folders: Mapping[str, tuple[Path, Path | None]], threads: int, work: Work) -> dict:
    """Each folder once in memory, however many sides it has."""
    opened: dict[Path, TextModel] = {}
    sides = {}
    for name, (folder, file) in folders.items():
        if folder not in opened:
            opened[folder] = open_text_model(find_model(folder), Place(), threads)
        model = opened[folder]
        sides[name] = partial((model.with_adapter(file) if file else model).run, work)
    return sides


def _torch_sides(threads: int, work: Work) -> dict[str, Callable[[], Sample]]:
    """The base in torch, and the adapter as PEFT runs it: ΔW made anew each time."""
    try:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        print(f"  torch: not timed: {error}")
        return {}
    torch.set_num_threads(threads)
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    # Two copies: PEFT changes the model it is given.
    plain, under = (AutoModelForCausalLM.from_pretrained(HF, dtype=torch.float32) for _ in "ab")
    adapted = PeftModel.from_pretrained(under, ADAPTER)
    return {
        TORCH_BASE: partial(_run_torch, plain.eval(), work),
        TORCH: partial(_run_torch, adapted.eval(), work),
    }


def _run_torch(model, work: Work) -> Sample:
    """Greedy, with a KV cache, the same tokens as ``TextModel.run``."""
    import torch

    vocabulary = model.config.vocab_size
    ids = torch.from_numpy(
        np.random.default_rng(0).integers(0, vocabulary, (1, work.prompt_tokens))
    )
    cache = None
    times = [time.perf_counter()]
    with torch.inference_mode():
        for _ in range(work.new_tokens):
            found = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = found.past_key_values, found.logits[:, -1:].argmax(-1)
            times.append(time.perf_counter())
    prefill, *steps = np.diff(times).tolist()
    return Sample(prefill, tuple(steps))


def _print(base: Path, threads: int, sides: Sides, rounds: int) -> None:
    timed = take_turns(sides, rounds)
    print(f"\n{base.name}, {threads} thread{'s' * (threads > 1)}; ÷ the base in ONNX Runtime:")
    print(f"  {'':<18} {'ms a token':>10} {'decode ratio':>24} {'prefill ratio':>24}")
    for name in sides:
        step = Spread.of(1e3 * found[name].step for found in timed).median
        decode = ratio(timed, name, NO_ADAPTER, lambda sample: sample.step)
        prefill = ratio(timed, name, NO_ADAPTER, lambda sample: sample.prefill)
        print(f"  {name:<18} {step:>10.2f} {_range(decode):>24} {_range(prefill):>24}", flush=True)


def _range(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.low:.3f}–{spread.high:.3f})"


if __name__ == "__main__":
    main()
