"""``python -m benchmarks.llama_cpp MODEL.gguf``: a GGUF file in llama.cpp and by ``kronq base``.

    python -m benchmarks.llama_cpp MODEL.gguf [--processes 5] [--keep FILE] [--no-agreement]

The exact 4-bit base and the fast one, each with compiled slots, and llama.cpp on the file itself:
without an adapter, with the Kron adapter of the examples and with a LoRA of rank 8, in float32, and
in the slots as kronq's codes of 8 and 4 bits too; and each base as ``kronq base`` writes it. One
thread, by CPU time, so that other work on the machine counts less. Then how far each is from
float32 on the same text, with the Kron adapter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import kronq
from benchmarks.decoding import random_lora
from benchmarks.sizes import ADAPTER
from benchmarks.turns import in_a_process, kept, shuffled
from kronq.base.agreement import TEXT
from kronq.genai.bench.llama_cpp import LlamaCpp, describe_llama_cpp
from kronq.genai.bench.machine import describe_machine
from kronq.genai.bench.timed_model import Workload, open_timed_model
from kronq.genai.bench.timing import Sample
from kronq.genai.logits import log_probabilities
from kronq.onnx.forms import Slots
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import ExecutionTarget
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter

BASES = {"exact 4 bits": False, "--fast": True}
LLAMA, NONE, KRON, LORA = "llama.cpp", "no adapter", "Kron", "LoRA-8"
CODED = {
    "Kron of 4 bits": (KRON, 4),
    "LoRA-8 of 8 bits": (LORA, 8),
    "LoRA-8 of 4 bits": (LORA, 4),
}
PLAIN = " base"
"""What the name of a base's own folder ends in, without slots."""
WORK = Workload(128, 32)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="a file of JSON lines, one for each process")
    parser.add_argument("--no-agreement", action="store_true")
    args = parser.parse_args(arguments)
    machine = describe_machine()
    print(f"{machine.cpu}, onnxruntime {machine.onnxruntime}; {describe_llama_cpp()}")
    with tempfile.TemporaryDirectory(prefix="kronq-") as scratch:
        request = _write(args.gguf.resolve(), Path(scratch)) | {"rounds": args.rounds}
        runs = (in_a_process("benchmarks.llama_cpp", request) for _ in range(args.processes))
        _print_speeds(kept(args.keep, runs))
        if not args.no_agreement:
            _print_agreement(request, Path(scratch))


def _write(gguf: Path, scratch: Path) -> dict[str, Any]:
    """Writes all bases and adapters; returns model folder or file → adapter's name → file."""
    adapters = {KRON: kronq.load(ADAPTER), LORA: random_lora(kronq.load(ADAPTER), 8)}
    sides: dict[str, dict[str, str | None]] = {LLAMA: {NONE: None}}
    models = {LLAMA: str(gguf)}
    for name, adapter in adapters.items():
        file = kronq.convert(adapter, scratch / f"{name}.gguf", to="gguf", base_model=str(gguf))
        sides[LLAMA][name] = str(file)
    for name, (own, bits) in CODED.items():
        adapters[name] = kronq.quantize(adapters[own], bits=bits)
    for label, fast in BASES.items():
        folder = scratch / label.strip("-").replace(" ", "-")
        kronq.build_base(gguf, folder / "base", fast=fast)
        app = folder / "app"
        form = Slots(compiled=True)
        kronq.export_onnx(adapters[KRON], folder / "base", app, form=form, verify=False)
        models[label], sides[label] = str(app), {NONE: None}
        models[label + PLAIN], sides[label + PLAIN] = str(folder / "base"), {NONE: None}
        for name, adapter in adapters.items():
            file = write_onnx_adapter(adapter, app, folder / f"{name}.onnx_adapter")
            sides[label][name] = str(file)
    return {"models": models, "sides": sides}


def child(request: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Times every side in turns, in random order; returns medians."""
    import random

    rng = random.Random()  # noqa: S311
    runs = _open(request, rng)
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    for _ in range(request["rounds"] + 1):
        for name in shuffled(runs, rng):
            samples[name].append(runs[name]())
    return {
        name: {
            "prefill": statistics.median(sample.prefill for sample in found[1:]),
            "step": statistics.median(sample.step for sample in found[1:]),
        }
        for name, found in samples.items()
    }


def _open(request: Mapping[str, Any], rng: Any) -> dict[str, Callable[[], Sample]]:
    runs: dict[str, Callable[[], Sample]] = {}
    for label in shuffled(request["models"], rng):
        path, adapters = Path(request["models"][label]), request["sides"][label]
        if label == LLAMA:
            for name, file in adapters.items():
                lora = None if file is None else Path(file)
                llama = LlamaCpp(path, lora, tokens=256, threads=1)
                runs[f"{label}, {name}"] = partial(llama.run, WORK, 49152, time.process_time)
            continue
        plain = open_timed_model(find_model(path), ExecutionTarget(threads=1))
        for name, file in adapters.items():
            model = plain if file is None else plain.with_adapter(Path(file))
            runs[f"{label}, {name}"] = partial(model.run, WORK, time.process_time)
    return runs


def _print_speeds(found: list[dict[str, dict[str, float]]]) -> None:
    """A line a side: tokens a second of CPU time, and llama.cpp's time ÷ its own."""
    heads = "".join(f"{head:>28}" for head in ("decode, tokens/s", "prefill, tokens/s"))
    heads += "".join(f"{head:>24}" for head in ("llama.cpp's ÷, decode", "prefill"))
    print(f"{'':<26}{heads}")
    for name in sorted(found[0]):
        adapter = name.partition(", ")[2]
        rival = f"{LLAMA}, {CODED.get(adapter, (adapter,))[0]}"
        cells = [
            [1 / one[name]["step"] for one in found],
            [WORK.prompt_tokens / one[name]["prefill"] for one in found],
            [one[rival]["step"] / one[name]["step"] for one in found],
            [one[rival]["prefill"] / one[name]["prefill"] for one in found],
        ]
        line = "".join(f"{_told(cell, 1):>28}" for cell in cells[:2])
        line += "".join(f"{_told(cell, 3):>24}" for cell in cells[2:])
        print(f"{name:<26}{line}")
    for label in BASES:
        for name in (KRON, LORA, *CODED):
            for other, called in ((label, "without"), (label + PLAIN, "the base's own folder")):
                ratios = [
                    one[f"{label}, {name}"]["step"] / one[f"{other}, {NONE}"]["step"]
                    for one in found
                ]
                print(f"{label}, a token with {name} ÷ {called}: {_told(ratios, 3)}")
    print(f"{len(found)} processes: medians with the quartiles")


def _told(values: list[float], digits: int) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _print_agreement(request: Mapping[str, Any], scratch: Path) -> None:
    """Compares all with float32, after every token of a text, without and with the Kron adapter."""
    base = scratch / "float32"
    kronq.build_base(request["models"][LLAMA], base / "base", "fp32")
    adapter = kronq.load(ADAPTER)
    app = base / "app"
    kronq.export_onnx(adapter, base / "base", app, form="slots", verify=False)
    reference = kronq.Session(app, device="cpu")
    reference.load(KRON, adapter)
    tokens = reference.tokenize(TEXT)
    for name in (NONE, KRON):
        used = None if name == NONE else name
        expected = log_probabilities(reference.logits(tokens, adapter=used)[0])
        for label, found in _predictions(request, name, tokens):
            print(f"{label}, {name}: {_agreement(expected, found, tokens)}")


def _predictions(
    request: Mapping[str, Any], name: str, tokens: list[int]
) -> Iterator[tuple[str, np.ndarray]]:
    for label, path in request["models"].items():
        if label.endswith(PLAIN):
            continue
        file = request["sides"][label][name]
        if label == LLAMA:
            lora = None if file is None else Path(file)
            llama = LlamaCpp(Path(path), lora, tokens=len(tokens) + 8, threads=1)
            yield label, llama.log_probabilities(tokens, 49152)
            continue
        session = kronq.Session(path, device="cpu")
        if file is not None:
            session.load(name, file)
        used = None if file is None else name
        yield label, log_probabilities(session.logits(tokens, adapter=used)[0])


def _agreement(expected: np.ndarray, found: np.ndarray, tokens: list[int]) -> str:
    rows = ~np.isnan(found).any(axis=1)
    p, q = expected[rows], found[rows].astype(np.float64)
    divergence = np.sum(np.exp(p) * (p - q), axis=1)
    following = np.array(tokens[1:])[rows[:-1]]
    places = np.arange(len(following))
    apart = np.abs(p[places, following] - q[places, following])
    same = np.mean(p.argmax(1) == q.argmax(1))
    return (
        f"{same:.1%} the same likeliest token, KL {divergence.mean():.5f} nats, "
        f"log p of the text's next token apart by {apart.mean():.4f}; {rows.sum()} tokens"
    )


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(child(json.load(sys.stdin))))
    else:
        main()
