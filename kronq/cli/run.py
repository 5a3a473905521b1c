"""``kronq run``: text from a model folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.adapter_sums import adapter_sums, add_up, strength_options
from kronq.cli.command import Command
from kronq.errors import printable_json
from kronq.io.extras import require

if TYPE_CHECKING:
    from kronq.genai.generation import Generation

ADAPTER = "adapter"

EXAMPLES = """\b
Examples:
  kronq run base/ --prompt "The capital of France is" --max-tokens 12
  kronq run out/ --chat --prompt "Write a haiku about rain." \\
      --temperature 0.7 --seed 1
  kronq run slots/ --adapter small.safetensors \\
      --prompt "Which gas do plants take in?"
  kronq run slots/ --adapter a.safetensors@0.7 \\
      --adapter b.safetensors@0.3 --prompt "Hello"
  cat question.txt | kronq run out/ --chat --prompt - --json
"""


@click.command("run", cls=Command, epilog=EXAMPLES)
@click.argument("path")
@click.option(
    "--prompt", required=True, metavar="TEXT", help="The text to continue; - reads stdin."
)
@click.option("--chat", is_flag=True, help="Put the prompt into the model's chat template.")
@strength_options
@shared.basis_option
@shared.other_base_option
@click.option("--max-tokens", type=int, default=128, show_default=True, metavar="N")
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    metavar="T",
    help="0 takes the likeliest token each time.",
)
@click.option("--top-p", type=float, metavar="P", help="Only the likeliest, up to this share.")
@click.option("--top-k", type=int, metavar="K", help="Only the K likeliest.")
@click.option("--seed", type=int, metavar="S", help="The same seed gives the same text.")
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End before this text; may be given again."
)
@shared.execution_options
@click.option(
    "--nodes",
    "count_nodes",
    is_flag=True,
    help="Report how many nodes each provider runs; opens the model a second time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone on stdout, at the end.")
def command(
    path: str,
    prompt: str,
    adapters: tuple[str, ...],
    strength: float,
    basis: str | None,
    other_base: bool,
    count_nodes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate text with the model in PATH, as 'kronq base' and 'kronq export' write it.

    Several adapters are added up, exactly, each times its strength.

    The text goes to stdout as it comes; speed and device go to stderr.
    """
    text = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    shared.check_inputs(path, basis)
    total = add_up(adapter_sums(adapters, strength).values())
    require("genai", "text")
    from kronq.genai.session import Session

    session = Session(path, **shared.pop_execution(options))
    if total:
        session.load(ADAPTER, total, basis=basis, other_base=other_base)
    generation = session.generate(
        text,
        adapter=ADAPTER if total else None,
        stream=None if as_json else shared.stream_text,
        **options,
    )
    nodes = session.report.nodes if count_nodes else None
    threads = session.target.threads
    if as_json:
        text = json.dumps(to_json(generation, threads, nodes), ensure_ascii=False)
        click.echo(printable_json(text))
        return
    click.echo()
    shared.inform(describe_run(generation, threads, nodes))


def to_json(
    generation: Generation, threads: int | None, nodes: Mapping[str, int] | None
) -> dict[str, object]:
    return {
        **asdict(generation),
        "prefill_tokens_per_second": generation.prefill_tokens_per_second,
        "decode_tokens_per_second": generation.decode_tokens_per_second,
        "threads": threads,
        **({} if nodes is None else {"nodes": dict(nodes)}),
    }


def describe_run(
    generation: Generation, threads: int | None, nodes: Mapping[str, int] | None
) -> str:
    decode = generation.decode_tokens_per_second
    parts = [
        f"{len(generation.tokens)} tokens after {generation.prompt_tokens} ({generation.stopped})",
        f"prefill {generation.prefill_tokens_per_second:.1f} tokens/s",
        f"decode {decode:.1f} tokens/s" if decode else "decode not timed",
        generation.provider,
        f"{threads} threads" if threads else "default threads",
        *(f"{count:,} nodes on {name}" for name, count in (nodes or {}).items()),
    ]
    return ", ".join(parts)
