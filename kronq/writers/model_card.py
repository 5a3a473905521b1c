"""A model card: README.md in the Hugging Face Hub's form, with the figures that a file carries."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Literal

from kronq.errors import check_choice, check_type, printable
from kronq.model.adapter import Adapter, Recipe, TaskCheck
from kronq.model.other_parts import other_parts
from kronq.readers.known_paths import known_layer

CARD = "README.md"
Library = Literal["peft", "kronq"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_card(
    adapter: Adapter,
    title: str,
    *,
    library: Library = "kronq",
    family: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
) -> str:
    """Writes a model card: a YAML header, and what the adapter's file says of its size and error.

    Args:
        adapter: The adapter, as ``load`` returns it.
        title: Its name.
        library: What loads it: ``peft`` for a PEFT folder, ``kronq`` for a packed file.
        family: ``kron`` or ``lora`` where it was converted to another family than the adapter's.
        base_model: The base's name on the Hub; that which the adapter names if None. A path is left
            out.
        license: The license's identifier on the Hub, as ``apache-2.0``; left out if None.

    Returns:
        Markdown.

    Raises:
        ArgumentError: An argument has a wrong type or value.
    """
    check_type("adapter", adapter, Adapter)
    check_type("title", title, str)
    check_choice("library", library, ("peft", "kronq"))
    base = base_model or adapter.origin.base_model
    if base is not None and not _HUB_NAME.fullmatch(base):
        base = None  # a path of the machine that trained it
    sections = [
        _header(adapter, family or adapter.family, library, base, license),
        f"# {_plain(title)}",
        _about(adapter, family or adapter.family, base),
        *_other_parts(adapter),
        *_figures(adapter),
        _usage(title, library, base, adapter),
    ]
    return "\n\n".join(sections) + "\n"


def _header(
    adapter: Adapter, family: str, library: Library, base: str | None, license: str | None
) -> str:
    tags = ["kronq", "lokr" if family == "kron" else "lora"]
    tags += ["quantized"] if adapter.recipe is not None else []
    lines = [f"library_name: {library}"]
    if base is not None:
        lines = [f"base_model: {_scalar(base)}", "base_model_relation: adapter", *lines]
        tags.append(f"base_model:adapter:{base}")
    if license is not None:
        lines.append(f"license: {_scalar(license)}")
    return "\n".join(["---", *lines, "tags:", *(f"- {_scalar(tag)}" for tag in tags), "---"])


def _about(adapter: Adapter, family: str, base: str | None) -> str:
    kind = "LoKr (Kronecker)" if family == "kron" else "LoRA"
    if family != adapter.family:
        kind += ", converted from a LoKr"
    ranks = sorted({delta.rank for delta in adapter.values()})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    of = f" for `{_plain(base)}`" if base else ""
    return (
        f"An adapter{of}: {kind}. {len(adapter):,} layers, trained with {rank}, "
        f"{adapter.parameters:,} weights."
    )


def _other_parts(adapter: Adapter) -> Iterator[str]:
    lines = other_parts(adapter).lines()
    if lines:
        yield "\n".join(f"- {_plain(line)}" for line in lines)


def _figures(adapter: Adapter) -> Iterator[str]:
    """Yields the tables of size, error and task; of an adapter as trained there are none."""
    recipe = adapter.recipe
    if recipe is None:
        return
    yield "## Size and error"
    rows = list(_size_rows(adapter, recipe))
    yield "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    yield (
        "Quantized by kronq with the method "
        f"`{_plain(recipe.method)}`. The error of ΔW is ‖ΔW − ΔŴ‖ ÷ ‖ΔW‖ over all layers, measured "
        "exactly; it is not the loss of a task."
    )
    if recipe.task is not None:
        yield "## Task"
        yield _task_table(recipe.task)


def _size_rows(adapter: Adapter, recipe: Recipe) -> Iterator[tuple[str, str]]:
    size = adapter.origin.file_bytes
    if size:
        yield "quantized file", f"{size:,} bytes"
        yield "bits per weight", f"{8 * size / adapter.parameters:.2f}"
    yield "method", f"{_plain(recipe.method)}{', unbiased' if recipe.refit == 'unbiased' else ''}"
    error = recipe.relative_error
    if error is not None:
        yield "error of ΔW", f"{100 * error:.2f} %"
        if error > 0:
            yield "signal-to-noise ratio", f"{-20 * math.log10(error):.2f} dB"


def _task_table(task: TaskCheck) -> str:
    low, high = task.interval
    rows = [
        ("questions, held out", f"{task.examples:,} of `{_plain(task.data)}`"),
        (
            "change of the NLL per answer token",
            f"{100 * task.loss_increase:+.2f} % (95 %: {100 * low:+.2f} to {100 * high:+.2f} %)",
        ),
        ("allowed", f"{100 * task.max_loss_increase:g} %"),
    ]
    if task.accuracy is not None and task.accuracy_before is not None:
        figures = f"{100 * task.accuracy_before:.1f} % → {100 * task.accuracy:.1f} %"
        rows.append(("accuracy, as trained → quantized", figures))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _is_image_layer(name: str) -> bool:
    known = known_layer(name)
    return known is not None and known.image


def _usage(title: str, library: Library, base: str | None, adapter: Adapter) -> str:
    name = json.dumps(title)
    of_images = any(map(_is_image_layer, adapter))
    if library == "peft" and of_images:
        code = (
            "from diffusers import DiffusionPipeline\nfrom peft import PeftModel\n\n"
            f"pipeline = DiffusionPipeline.from_pretrained({json.dumps(base or 'BASE')})\n"
            "part = pipeline.unet  # or pipeline.transformer, or a text encoder\n"
            f"PeftModel.from_pretrained(part, {name})  # adapts the part in place"
        )
    elif library == "peft":
        model = json.dumps(base) if base else '"BASE"'
        code = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f"base = AutoModelForCausalLM.from_pretrained({model})\n"
            f"model = PeftModel.from_pretrained(base, {name})"
        )
    else:
        basis = "" if adapter.bases is None else ', basis="BASIS"'
        code = f"import kronq\n\nadapter = kronq.load({name}{basis})"
    return f"## Use\n\n```python\n{code}\n```"


def _scalar(text: str) -> str:
    """Returns a text as a YAML scalar: JSON's strings are YAML's."""
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text)


_YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
"""What YAML does not read as a text."""


def _plain(text: str) -> str:
    """Returns a text from a file without what Markdown or a terminal would act on."""
    return re.sub(r"[`|<>\[\]]", "", printable(text))
