"""The jobs of a newcomer's first hour, by what a terminal of eighty columns shows.

No line is wider than the terminal, no traceback is shown, and the figures that answer the question
are there, in words of the glossary.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import kronq as package
from kronq.cli import VERBS
from kronq.fitting import cells
from kronq.io.examples import Example
from tests.cli.screen import Screen, Shown
from tests.evaluate.conftest import helped, learned, model
from tests.evaluate.tiny import tiny_adapter
from tests.paths import EXAMPLE

__all__ = ["helped", "learned", "model"]

COLUMNS = 80


class Newcomer:
    """``newcomer("inspect", path)``: the lines that stay on the screen, all within it."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def __call__(self, *args: object, code: int = 0) -> str:
        shown: Shown = self._screen(*args)
        assert shown.code == code, shown.text
        assert cells(shown.widest) <= COLUMNS, shown.widest
        assert "Traceback" not in shown.text
        return shown.text


@pytest.fixture
def newcomer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, learned: Path, questions: Path
) -> Newcomer:
    """In a folder with an adapter and questions, as after following the tutorial."""
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, target in {"arc": EXAMPLE, "learned": learned, "dev.jsonl": questions}.items():
        (tmp_path / name).symlink_to(target)
    return Newcomer(Screen(monkeypatch, COLUMNS))


@pytest.fixture(scope="module")
def questions(helped: list[Example], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "dev.jsonl"
    rows = [{"prompt": e.prompt, "answer": e.choices[e.answer].strip()} for e in helped]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def figures(text: str) -> list[float]:
    return [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\.?\d*", text)]


def line_with(text: str, word: str) -> str:
    """The only line, or the first, in which a word stands."""
    return next(line for line in text.splitlines() if word in line)


def test_1_what_have_i_got(newcomer: Newcomer) -> None:
    text = newcomer("inspect", "arc")
    assert "kron adapter (peft), base" in text
    assert "SmolLM2-135M-Instruct" in text
    assert "self_attn.k_proj ×30" in text
    total = line_with(text, "total ×210, file")
    assert 1_305_288 in figures(total)


def test_2_make_it_four_bits(newcomer: Newcomer) -> None:
    text = newcomer("quantize", "learned", "-o", "small.safetensors", "--bits", 4)
    assert text.startswith("method native: the default for --bits 4")
    size = Path("small.safetensors").stat().st_size
    assert size in figures(line_with(text, "total ×7, file"))
    for told in ("error %", "SNR", "worst: ", "Gaussian bound: ", "cosine "):
        assert told in text
    assert f"wrote small.safetensors, {size:,} bytes" in text
    assert "quantized: method native, bits 4" in newcomer("inspect", "small.safetensors")


def test_3_make_it_this_many_bytes(newcomer: Newcomer) -> None:
    text = newcomer("quantize", "learned", "-o", "tiny.safetensors", "--size", "3KB")
    assert text.startswith("method compact: the default for --size")
    size = Path("tiny.safetensors").stat().st_size
    assert 2_700 < size <= 3_000
    assert f"wrote tiny.safetensors, {size:,} bytes" in text


def test_4_a_report_to_hand_on(newcomer: Newcomer) -> None:
    files = ("-o", "a.safetensors", "--html", "a.html", "--report", "a.json")
    text = newcomer("quantize", "learned", *files, "--bits", 3)
    report = json.loads(Path("a.json").read_text())
    size = Path("a.safetensors").stat().st_size
    assert report["total"]["bytes"] == size
    page = Path("a.html").read_text("utf-8")
    assert "width=device-width" in page
    assert f"{100 * report['total']['relative_error']:.1f}" in page
    assert f"{report['total']['snr_db']:.2f}" in text


def test_5_which_of_two_is_better(newcomer: Newcomer) -> None:
    package.convert(tiny_adapter("lora", seed=1), "other", to="lora")
    text = newcomer("compare", "learned", "other", "--bits", "4,2")
    for name in ("learned", "other"):
        assert name in text
    assert "error %" in text
    assert "bytes" in text


def test_6_for_other_programs(newcomer: Newcomer) -> None:
    newcomer("quantize", "learned", "-o", "small.safetensors", "-q")
    text = newcomer("convert", "small.safetensors", "--to", "peft", "-o", "again")
    assert text.startswith("wrote again: LoRA, 7 layers, rank 8, ")
    text = newcomer("convert", "arc", "--to", "lora", "-o", "arc-lora")
    assert "wrote arc-lora: LoRA, 210 layers, rank 32, " in text
    assert len(package.load("arc-lora")) == 210


def test_7_run_it(newcomer: Newcomer, tiny_base: Path) -> None:
    newcomer("quantize", "learned", "-o", "small.safetensors", "-q")
    text = newcomer("export", "learned", "--base", tiny_base, "-o", "app", "--dry-run")
    assert "self_attn.q_proj" in text
    text = newcomer("export", "small.safetensors", "--base", tiny_base, "-o", "app")
    assert "layers matched" in text
    assert "largest difference" in text
    assert "run it: kronq chat app --adapter small.safetensors" in text
    told = ("--prompt", "abc", "--max-tokens", 4, "--nodes")
    text = newcomer("run", "app", "--adapter", "small.safetensors", *told)
    assert "4 tokens after" in text
    assert "nodes on CPU" in text.replace("\n  ", " ")
    text = newcomer("bench", "app", "--adapter", "small.safetensors", "--rounds", 2,
                    "--prompt-tokens", 4, "--new-tokens", 2)  # fmt: skip
    assert "decode, tokens/s" in text


def test_8_how_good_is_it(newcomer: Newcomer, tiny_base: Path) -> None:
    newcomer("quantize", "learned", "-o", "small.safetensors", "--bits", 2, "-q")
    told = ("--base", tiny_base, "--tasks", "dev.jsonl")
    text = newcomer("score", "learned", "small.safetensors", *told)
    for word in ("learned", "small", "no adapter", "gain kept", "NLL", "examples of dev.jsonl"):
        assert word in text


def test_9_the_smallest_that_still_answers(newcomer: Newcomer, tiny_base: Path) -> None:
    told = ("--base", tiny_base, "--tasks", "dev.jsonl", "--max-loss-increase", "60%")
    text = newcomer("quantize", "learned", "-o", "best.safetensors", "--method", "balanced", *told)
    assert "held out" in text
    assert "as trained" in text
    assert "allowed" in text
    assert f"{Path('best.safetensors').stat().st_size:,} bytes" in text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["inspect", "arcc"], "arcc: no such file or folder"),
        (["inspect", "dev.jsonl"], "dev.jsonl: "),
        (["quantize", "learned", "-o", "dev.jsonl"], "dev.jsonl: "),
        (["quantize", "learned"], "give an output with -o"),
        (["convert", "learned", "--to", "peft", "-o", "arc"], "the output exists"),
        (["score", "learned", "--base", "nowhere", "--tasks", "dev.jsonl"], "nowhere: "),
    ],
    ids=str,
)
def test_10_mistakes_are_told_in_words(newcomer: Newcomer, given: list[str], told: str) -> None:
    text = newcomer(*given, code=2)
    assert text.startswith("kronq: error: ")
    assert told in text.replace("\n  ", " ")
    assert "hint" in text or "expected" in text or "no such" in text


def test_calibration_fits_the_terminal(newcomer: Newcomer, tiny_base: Path) -> None:
    Path("notes.txt").write_text("Bees make honey. Plants take in carbon dioxide.\n" * 3)
    told = ("--calibration", "notes.txt", "--base", tiny_base)
    text = newcomer("calibrate", "learned", *told)
    assert "7 layers, " in text
    assert "spread" in text
    text = newcomer("quantize", "learned", "-o", "a.safetensors", "-v", *told)
    assert "activations: " in text


@pytest.mark.slow
def test_building_a_base_fits_the_terminal(newcomer: Newcomer, tiny_hf: Path) -> None:
    assert newcomer("base", tiny_hf, "-o", "base").startswith("base: LlamaForCausalLM, 2 layers, ")


@pytest.mark.parametrize("verb", ["--help", *VERBS])
def test_help_fits_the_terminal(newcomer: Newcomer, verb: str) -> None:
    text = newcomer(verb) if verb == "--help" else newcomer(verb, "--help-all")
    assert "Usage: kronq" in text
    assert verb == "--help" or "Examples:" in text or "--json" not in text
