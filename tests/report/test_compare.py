"""Comparison of adapters over widths, and with baselines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kronq
from benchmarks.baselines import BASELINES
from kronq.errors import KronqError, OutputExistsError
from kronq.model.adapter import Adapter
from kronq.report.comparison import compare
from kronq.report.comparison_models import Comparison
from kronq.report.plot import plot_comparison
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
    """float16 is the same for all methods, and has one row."""
    found = [(row.adapter, row.bits, row.method) for row in comparison.rows]
    widths = [(16, "fp16"), *((b, m) for b in (8, 4, 2) for m in ("rtn", "balanced"))]
    assert found == [(name, *width) for name in ("kron", "lora") for width in widths]
    assert {row.adapter: row.family for row in comparison.rows} == {"kron": "kron", "lora": "lora"}


def test_a_row_has_the_size_and_error_of_a_saved_file(tmp_path: Path) -> None:
    adapter = adapters.adapter()
    (row,) = compare({"x": adapter}, (4,)).rows
    quantized = kronq.quantize(adapter, kronq.Uniform())
    error = kronq.measure(adapter, quantized).total.relative_error
    file = kronq.save(quantized, tmp_path / "x.safetensors")
    assert (row.bytes, row.relative_error) == (file.stat().st_size, error)


def test_equal_bytes_is_the_best_fitting_row_of_the_other_adapter(comparison: Comparison) -> None:
    rows = comparison.rows
    for row in rows:
        (other, fit), *rest = row.equal_bytes.items()
        assert (row.adapter, other, rest) in (("kron", "lora", []), ("lora", "kron", []))
        errors = [r.relative_error for r in rows if r.adapter == other and r.bytes <= row.bytes]
        assert (fit.relative_error if fit else None) == (min(errors) if errors else None)
    assert any(row.equal_bytes.get("lora", 1) is None for row in rows)  # nothing is small enough
    assert not any(row.equal_bytes for row in compare({"x": adapters.adapter()}, (4,)).rows)


def test_baselines_count_bits_per_trained_parameter() -> None:
    """A rank truncated to half has half the weights; bits are per trained weight."""
    adapter = adapters.adapter()
    chosen = [b for b in BASELINES if b.name in ("rank 4/8 fp16", "olive int4 b32")]
    rows = compare({"x": adapter, "y": adapters.adapter(1)}, (4,), baselines=chosen).rows
    found = [(row.adapter, row.method, row.source) for row in rows]
    assert found[:3] == [
        ("x", "balanced", "kronq"),
        ("x", "rank 4/8 fp16", "baseline"),
        ("x", "olive int4 b32", "baseline"),
    ]
    for row, baseline in zip(rows[1:3], chosen, strict=True):
        made = baseline.run(adapter)
        assert row.bytes == made.nbytes == len(made.file)
        assert row.how == baseline.how
        assert row.parameters == adapter.parameters
        assert row.bits_per_parameter == 8 * row.bytes / adapter.parameters
        assert row.bits_above_bound is not None
        assert row.bits_above_bound > 0
    # At equal bytes it is what kronq makes of the other adapter.
    assert {fit.method for row in rows for fit in row.equal_bytes.values() if fit} == {"balanced"}


def test_compact_takes_any_width_and_no_other_method_does() -> None:
    rng = np.random.default_rng(0)
    adapter = Adapter({"l": adapters.kron(rng, (4, 4), (256, 256), 8)})
    rows = compare({"x": adapter}, (16, 4, 2.5), methods=("rtn", "compact")).rows
    assert [(row.method, row.bits) for row in rows] == [
        ("fp16", 16), ("rtn", 4), ("compact", 4), ("compact", 2.5)
    ]  # fmt: skip
    with pytest.raises(KronqError, match=r"no method has such a width; found 2\.5"):
        compare({"x": adapter}, (2.5,))


def test_bound_spans_the_measured_sizes(comparison: Comparison) -> None:
    for name, points in comparison.bounds.items():
        sizes = [row.bytes for row in comparison.rows if row.adapter == name]
        assert (points[0].bytes, points[-1].bytes) == (min(sizes), max(sizes))
        assert [p.snr_db for p in points] == sorted(p.snr_db for p in points)
        smallest = next(r for r in comparison.rows if r.adapter == name and r.bytes == min(sizes))
        assert points[0].snr_db == pytest.approx(smallest.bound_snr_db)


def test_reads_a_comparison_from_before_baselines(comparison: Comparison) -> None:
    old = json.loads(comparison.model_dump_json(exclude={"bounds"}))
    for row in old["rows"]:
        del row["source"], row["how"]
    assert {row.source for row in Comparison.model_validate(old).rows} == {"kronq"}


def test_progress() -> None:
    seen: list[tuple[int, int]] = []
    both = {"x": adapters.adapter(), "y": adapters.adapter(1)}
    compare(both, (16, 4), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_plots_are_reproducible(comparison: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = [plot_comparison(comparison, tmp_path / f"{i}.svg").read_bytes() for i in range(2)]
    assert pictures[0] == pictures[1]
    assert b"<svg" in pictures[0]
    assert b"kron: Gaussian bound" in pictures[0]
    assert plot_comparison(comparison, tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_plot_refuses_existing_files_and_unknown_formats(
    comparison: Comparison, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "p.svg"
    file.write_text("mine")
    with pytest.raises(OutputExistsError):
        plot_comparison(comparison, file)
    assert file.read_text() == "mine"
    with pytest.raises(KronqError, match=r"expected \.svg or \.png"):
        plot_comparison(comparison, tmp_path / "p.pdf")


def test_a_comparison_is_shown_as_a_table(comparison: Comparison) -> None:
    lines = str(comparison).splitlines()
    assert len(lines) == 1 + len(comparison.rows)
    assert lines[0].endswith("others in no more bytes")
    assert repr(comparison) == f"Comparison({len(comparison.rows)} rows of kron, lora)"
    assert comparison._repr_html_().count("<tr>") == len(lines)
