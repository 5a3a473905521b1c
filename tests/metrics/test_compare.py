"""Adapters side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kronq
from kronq.adapter import Adapter
from kronq.errors import KronqError, OutputExistsError
from kronq.metrics.compare import Comparison, compare
from kronq.metrics.plot import plot
from tests import adapters


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    rng = np.random.default_rng(0)
    pair = {
        "kron": Adapter({f"l.{i}": adapters.kron(rng, (4, 4), (64, 64), 8) for i in range(3)}),
        "lora": Adapter({f"l.{i}": adapters.lora(rng, 256, 256, 4) for i in range(3)}),
    }
    return compare(pair, (16, 8, 4, 2), methods=("rtn", "balanced"))


def test_every_adapter_at_every_width(comparison: Comparison) -> None:
    """float16 is the same whatever the method, and told once."""
    found = [(row.adapter, row.bits, row.method) for row in comparison.rows]
    widths = [(16, "fp16"), *((b, m) for b in (8, 4, 2) for m in ("rtn", "balanced"))]
    assert found == [(name, *width) for name in ("kron", "lora") for width in widths]
    assert {row.adapter: row.family for row in comparison.rows} == {"kron": "kron", "lora": "lora"}


def test_a_row_is_what_quantize_and_save_would_give(tmp_path: Path) -> None:
    adapter = adapters.adapter()
    (row,) = compare({"x": adapter}, (4,)).rows
    quantized = kronq.quantize(adapter, 4)
    error = kronq.measure(adapter, quantized).total.relative_error
    file = kronq.save(kronq.stamp(quantized, error), tmp_path / "x.safetensors")
    assert (row.bytes, row.relative_error) == (file.stat().st_size, error)


def test_equal_bytes_is_the_best_of_the_other_that_fits(comparison: Comparison) -> None:
    rows = comparison.rows
    for row in rows:
        (other, fit), *rest = row.equal_bytes.items()
        assert (row.adapter, other, rest) in (("kron", "lora", []), ("lora", "kron", []))
        errors = [r.relative_error for r in rows if r.adapter == other and r.bytes <= row.bytes]
        assert (fit.relative_error if fit else None) == (min(errors) if errors else None)
    assert any(row.equal_bytes.get("lora", 1) is None for row in rows)  # nothing is small enough
    assert not any(row.equal_bytes for row in compare({"x": adapters.adapter()}, (4,)).rows)


def test_progress() -> None:
    seen: list[tuple[int, int]] = []
    both = {"x": adapters.adapter(), "y": adapters.adapter(1)}
    compare(both, (16, 4), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_picture_is_the_same_every_time(comparison: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = [plot(comparison, tmp_path / f"{i}.svg").read_bytes() for i in range(2)]
    assert pictures[0] == pictures[1]
    assert b"<svg" in pictures[0]
    assert plot(comparison, tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_never_overwritten_or_of_an_unknown_kind(
    comparison: Comparison, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "p.svg"
    file.write_text("mine")
    with pytest.raises(OutputExistsError):
        plot(comparison, file)
    assert file.read_text() == "mine"
    with pytest.raises(KronqError, match=r"expected \.svg or \.png"):
        plot(comparison, tmp_path / "p.pdf")
