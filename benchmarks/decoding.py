"""Cost of an adapter on all seven linear layers while text is generated, beside other tools.

    python -m benchmarks.decoding [BASE …] [--threads 1 2] [--processes 5] [--keep FILE]

Every base is timed without an adapter, with it in each form, in slots also with two adapters that
take turns at every token, and with a LoRA of rank 8 in slots and as onnxruntime-genai's own
builder puts it into the graph; a float32 base also beside the same adapter in torch, as PEFT runs
it. Each process opens all of them in random order, the base twice: how far the two are apart is
what a ratio may be off. With --keep a later run adds its processes to those of earlier ones.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import kronq
from benchmarks.lora_chain import write_lora_chain
from benchmarks.sizes import ADAPTER
from benchmarks.turns import AGAIN, BASE, Plan, in_a_process, kept, print_table, ratios, told
from kronq.genai.bench.machine import describe_machine
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE as UNIT
from kronq.model.delta import Delta, Product
from kronq.model.matrix import Float
from kronq.onnx.forms import Slots
from kronq.onnx.slots.write_onnx_adapter import write_onnx_adapter

ROOT = Path(__file__).parents[1]
DEMO, HF = ROOT / ".demo" / "base", ROOT / ".cache" / "hf"
CHILD = "benchmarks.decoding_sides"
TORCH_PROCESSES = 2
"""PEFT takes five times as long, and is not near to anything."""


PLAIN: Mapping[str, list[Path]] = {"": []}
SLOTS = {"slots": False, "slots, kernel": True}
ONE, TWO = ", Kron", ", two in turn"


@dataclass
class Sides:
    """Sessions that a process opens, and the sides that it times.

    Attributes:
        sessions: Label → model folder.
        sides: Name, label, and the .onnx_adapter files that are active by turns.
    """

    sessions: dict[str, str] = field(default_factory=dict)
    sides: list[tuple[str, str, list[str]]] = field(default_factory=list)

    def add(self, label: str, folder: Path, adapters: Mapping[str, list[Path]] = PLAIN) -> None:
        """Adds a session, and a side for each choice of adapters."""
        self.sessions[label] = str(folder)
        for name, files in adapters.items():
            self.sides.append((label + name, label, [str(file) for file in files]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bases", nargs="*", default=[str(DEMO)])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--keep", type=Path, help="a file of JSON lines, one for each process")
    args = parser.parse_args(arguments)
    machine = describe_machine()
    print(f"{machine.cpu}, {machine.cores} cores, onnxruntime {machine.onnxruntime}")
    found = kept(args.keep, _processes(args))
    for base, threads in dict.fromkeys((one["base"], one["threads"]) for one in found):
        same = [one for one in found if (one["base"], one["threads"]) == (base, threads)]
        print(f"\n{base}, {threads} thread{'s' * (threads > 1)}; ÷ the base in ONNX Runtime:")
        times = [times for one in same for times in one["times"]]
        print_table(times)
        for label in SLOTS:
            if turns := ratios(times, label + TWO, "step", to=(label + ONE,)):
                print(f"  {label}{TWO} ÷ one: {told(turns)}")


def _processes(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    plan = Plan(rounds=args.rounds)
    tokens = args.prompt_tokens, args.prompt_tokens + 2 + plan.bursts * (1 + plan.steps)
    for base in map(Path, args.bases):
        if not base.is_dir():
            print(f"Decoding: no base at {base}; 'make demo' builds one")
            continue
        same = base.resolve() == DEMO.resolve()
        torch = {"base": str(HF), "adapter": str(ADAPTER)} if same else None
        with tempfile.TemporaryDirectory(dir=base.resolve().parent) as scratch:
            sides = _write(base, kronq.load(ADAPTER), Path(scratch))
            os.sync()
            for number in range(args.processes):
                for threads in args.threads:
                    few = number >= TORCH_PROCESSES or args.no_torch
                    yield in_a_process(
                        CHILD,
                        asdict(sides)
                        | {
                            "base": base.name,
                            "threads": threads,
                            "tokens": tokens,
                            "plan": asdict(plan),
                            "torch": None if few else torch,
                        },
                    )


def _write(base: Path, adapter: Adapter, scratch: Path) -> Sides:
    """Writes all model folders and adapter files."""
    found = Sides()
    found.add(BASE, base)
    found.add(AGAIN, base)
    for form in ("merged", "branch"):
        try:
            kronq.export_onnx(adapter, base, scratch / form, form=form, verify=False)
            found.add(form, scratch / form)
        except kronq.KronqError as error:
            print(f"  {form}: not made of {base.name}: {error}")
    for label, kernel in SLOTS.items():
        folder = scratch / label.replace(", ", "-")
        kronq.export_onnx(adapter, base, folder, form=Slots(compiled=kernel), verify=False)
        kron, lora, other = (
            write_onnx_adapter(one, folder, folder / f"{name}.onnx_adapter")
            for name, one in (
                ("kron", adapter),
                ("lora", random_lora(adapter, 8)),
                ("other", kronq.quantize(adapter, bits=4)),
            )
        )
        slots = {", empty": [], ONE: [kron], ", LoRA-8": [lora], TWO: [kron, other]}
        found.add(label, folder, slots)
    write_lora_chain(base, scratch / "lora-8", rank=8)
    found.add("LoRA-8 as genai's", scratch / "lora-8")
    return found


def random_lora(like: Adapter, rank: int) -> Adapter:
    """Returns a random LoRA on the same layers."""
    rng = np.random.default_rng(0)

    def factor(rows: int, columns: int) -> Float:
        return Float((1e-2 * rng.standard_normal((rows, columns))).astype(np.float32))

    return Adapter(
        {
            name: Delta(UNIT, Product(factor(rows, rank), factor(rank, columns)), 2.0, delta.shape)
            for name, delta in like.items()
            for rows, columns in [delta.shape]
        }
    )


if __name__ == "__main__":
    main()
