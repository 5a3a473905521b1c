"""Model cards, read by huggingface_hub as the Hub reads them."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

import kronq
from kronq.errors import ArgumentError
from kronq.model.adapter import Adapter, Origin, Recipe, TaskCheck
from kronq.writers.model_card import model_card
from tests.cli.command import Kronq
from tests.paths import EXAMPLE

hub = pytest.importorskip("huggingface_hub")
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
CHECK = TaskCheck("dev.jsonl", 60, 0.01, 0.0043, (-0.0012, 0.0098), 0.71, 0.733)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed file with a task's check in it."""
    quantized = kronq.quantize(kronq.load(EXAMPLE))
    assert quantized.recipe is not None
    checked = replace(quantized, recipe=replace(quantized.recipe, task=CHECK))
    return kronq.save(checked, tmp_path_factory.mktemp("card") / "small.safetensors")


@pytest.fixture
def kronq_verb(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


def test_the_card_of_a_packed_file_has_its_figures(small: Path, kronq_verb: Kronq) -> None:
    card = hub.ModelCard(kronq_verb("card", small, "--license", "apache-2.0").out)
    data = card.data.to_dict()
    assert data.pop("tags") == ["kronq", "lokr", "quantized", f"base_model:adapter:{BASE}"]
    assert data == {
        "base_model": BASE,
        "base_model_relation": "adapter",
        "library_name": "kronq",
        "license": "apache-2.0",
    }
    size = small.stat().st_size
    total = kronq.measure(kronq.load(EXAMPLE), kronq.load(small)).total
    for line in (
        "LoKr (Kronecker). 210 layers, trained with rank 8, 613,920 weights.",
        f"| quantized file | {size:,} bytes |",
        f"| bits per weight | {8 * size / 613920:.2f} |",
        f"| error of ΔW | {100 * total.relative_error:.2f} % |",
        f"| signal-to-noise ratio | {total.snr_db:.2f} dB |",
        "| questions, held out | 60 of `dev.jsonl` |",
        "| change of the NLL per answer token | +0.43 % (95 %: -0.12 to +0.98 %) |",
        "| accuracy, as trained → quantized | 73.3 % → 71.0 % |",
    ):
        assert line in card.text


@pytest.mark.parametrize("to", ["peft", "lora"])
def test_a_converted_folder_has_a_card(to: str, small: Path, tmp_path: Path) -> None:
    folder = kronq.convert(kronq.load(small), tmp_path / "arc", to=to)
    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.base_model == BASE
    assert ("lokr" if to == "peft" else "lora") in card.data.tags
    assert "error of ΔW" in card.text  # the figures of the file that it was made from
    assert "+0.43 %" in card.text
    kronq.load(folder)


def test_an_adapter_as_trained_has_no_figures(tmp_path: Path, kronq_verb: Kronq) -> None:
    card = hub.ModelCard(kronq_verb("card", EXAMPLE).out)
    assert card.data.library_name == "peft"
    assert "quantized" not in card.data.tags
    assert "error" not in card.text


def test_an_image_adapter_is_not_put_into_a_language_model() -> None:
    delta = next(iter(kronq.load(EXAMPLE).values()))
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    card = model_card(Adapter({layer: delta}), "a", library="peft")
    assert "DiffusionPipeline" in card
    assert "AutoModelForCausalLM" not in card


@pytest.mark.parametrize("base", [None, "/home/me/model", "../base", "C:\\models\\base"])
def test_a_base_that_is_not_on_the_hub_is_not_named_to_it(base: str | None) -> None:
    adapter = Adapter(kronq.load(EXAMPLE).layers, Origin("memory", base_model=base))
    data = hub.ModelCard(model_card(adapter, "a")).data.to_dict()
    assert "base_model" not in data


@pytest.mark.parametrize("text", ["no", "1.0", "a: b", "- x", 'say "hi"', "é", "a\nb: c", "#x"])
def test_texts_of_strangers_stay_texts(text: str) -> None:
    adapter = Adapter(kronq.load(EXAMPLE).layers, Origin("memory", base_model=text))
    card = hub.ModelCard(model_card(adapter, text, license=text))
    assert card.data.license == text
    assert set(card.data.to_dict()) == {"library_name", "license", "tags"}


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "![](http://localhost/x.png) [a](b)",
        "a|b\n| c | d |",
        "```\n# Not a title\n```",
        "a`b`<img src=x onerror=1>",
        "\x1b[2J\x9b31m\u202egnp.exe",
        "---\nlicense: other\n---",
        '"); import os; os.system("x',
    ],
)
def test_names_of_strangers_are_no_markup(text: str) -> None:
    check = replace(CHECK, data=text)
    recipe = Recipe(text, 4, relative_error=0.1, task=check)
    adapter = replace(
        Adapter(kronq.load(EXAMPLE).layers, Origin("memory", base_model=f"a/{text}")),
        recipe=recipe,
    )
    card = model_card(adapter, text)
    assert all(line.isprintable() for line in card.splitlines())
    header, prose, code, end = re.split(r"^---\n\n|^```(?:python)?$", card, flags=re.MULTILINE)
    assert end == "\n"
    assert "license" not in header
    assert re.findall("^#+ .*", prose, flags=re.MULTILINE)[1:] == [
        "## Size and error",
        "## Task",
        "## Use",
    ]
    assert not re.search(r"[<>\[\]]", prose)
    assert prose.count("`") % 2 == 0
    assert ast.literal_eval(ast.parse(code).body[-1].value.args[0]) == text


def test_outputs_and_arguments(small: Path, tmp_path: Path, kronq_verb: Kronq) -> None:
    out = tmp_path / "README.md"
    assert kronq_verb("card", small, "-o", out).out == f"wrote {out}\n"
    assert "the output exists" in kronq_verb.refuses("card", small, "-o", out)
    assert "is or holds an input" in kronq_verb.refuses("card", small, "-o", small, "--force")
    with pytest.raises(ArgumentError, match="no such library"):
        model_card(kronq.load(small), "a", library="torch")  # type: ignore[arg-type]
