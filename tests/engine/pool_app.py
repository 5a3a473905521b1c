"""A tiny llama with slots, and adapters of every kind for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kronq import Adapter, Compact, Engine, Native, Session, Slots, export_onnx, quantize, save
from kronq.compiled.find import compiled_library
from kronq.errors import KronqError, UnsupportedError
from kronq.model.adapter import Origin
from kronq.model.delta import Delta
from kronq.onnx.slots.kernel import PROGRAM
from tests.adapters import kron, lora

SHAPES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.v_proj": (32, 64),
    "mlp.down_proj": (64, 96),
}
KINDS: dict[str, Callable[[Adapter], Adapter]] = {
    "float": lambda adapter: adapter,
    "native": lambda adapter: quantize(adapter, Native(4)),
    "compact": lambda adapter: quantize(adapter, Compact(size=2000)),
}


def make_adapter(seed: int, form: str = "kron") -> Adapter:
    """An adapter of two layers of each of ``SHAPES``, large enough to change every text."""
    random = np.random.default_rng(seed)
    layers: dict[str, Delta] = {}
    for i in range(2):
        for name, (rows, columns) in SHAPES.items():
            made = (
                kron(random, a=(4, 4), b=(rows // 4, columns // 4), rank=4)
                if form == "kron"
                else lora(random, rows=rows, cols=columns, rank=4)
            )
            layers[f"model.layers.{i}.{name}"] = replace(made, scale=0.1)
    return Adapter(layers, Origin("memory"))


def has_operator() -> bool:
    """Whether this machine has the compiled operator, or a compiler for it."""
    try:
        compiled_library(PROGRAM)
    except UnsupportedError:
        return False
    return True


def export_app(base: Path, out: Path) -> Path:
    export_onnx(make_adapter(0), base, out, Slots(compiled=True), verify=False)
    return out


def save_adapters(folder: Path) -> dict[str, Path]:
    """Packed files of each kind and form; name → path."""
    folder.mkdir()
    found = {}
    for form in ("kron", "lora"):
        for number, (kind, make) in enumerate(KINDS.items()):
            name = f"{form}-{kind}"
            found[name] = folder / f"{name}.safetensors"
            save(make(make_adapter(10 + number + 5 * (form == "lora"), form)), found[name])
    return found


def check_a_wrong_tag_ends_its_row_alone(engine: Engine, alone: Session) -> None:
    """Changes the tag that one of four rows has, and compares the others with single runs."""
    names = ["kron-native", "kron-float", "lora-native", None]
    jobs = [engine.submit("abc", adapter=name, max_tokens=9) for name in names]
    for _ in range(5):
        engine.step()
    wrong = jobs[1]
    right, wrong.adapter = wrong.adapter, replace(wrong.adapter, tag=wrong.adapter.tag ^ 1)
    while engine.step():
        pass
    with pytest.raises(KronqError, match="another"):
        _ = wrong.generation
    for name, job in zip(names, jobs, strict=True):
        if job is not wrong:
            expected = alone.generate("abc", adapter=name, max_tokens=9).tokens
            assert job.generation.tokens == expected
    assert right is not None
