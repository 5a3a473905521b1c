"""Comparison of adapters over widths, and with baselines."""

from __future__ import annotations

import itertools
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
from kronq.report.palette import METHODS
from kronq.report.plot import plot_comparison
from kronq.report.plot_labels import place_labels
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
    (row,) = compare({"x": adapter}, (4,), methods=("native",)).rows
    quantized = kronq.quantize(adapter, bits=4)
    error = kronq.measure(adapter, quantized).total.relative_error
    file = kronq.save(quantized, tmp_path / "x.safetensors")
    assert (row.bytes, row.relative_error) == (file.stat().st_size, error)


def test_equal_bytes_is_the_best_fitting_row_of_the_other_adapter(comparison: Comparison) -> None:
    rows = comparison.rows
    for row in rows:
        (other, fit), *rest = row.equal_bytes.items()
        assert (row.adapter, other, rest) in (("kron", "lora", []), ("lora", "kron", []))
        size = 1.01 * row.bytes
        errors = [r.relative_error for r in rows if r.adapter == other and r.bytes <= size]
        assert (fit.relative_error if fit else None) == (min(errors) if errors else None)
    assert any(row.equal_bytes.get("lora", 1) is None for row in rows)  # nothing is small enough
    assert not any(row.equal_bytes for row in compare({"x": adapters.adapter()}, (4,)).rows)


def large_pair() -> dict[str, Adapter]:
    """Two adapters, one of which has several times as many weights."""
    rng = np.random.default_rng(1)
    return {
        "small": Adapter({f"l.{i}": adapters.kron(rng, (4, 4), (128, 128), 8) for i in range(2)}),
        "large": Adapter({f"l.{i}": adapters.lora(rng, 512, 512, 8) for i in range(2)}),
    }


def test_compact_files_of_all_adapters_have_one_size() -> None:
    pair = large_pair()
    rows = [row for row in compare(pair, (4,)).rows if row.method == "compact"]
    assert [row.adapter for row in rows] == ["small", "large"]
    given = 4 * pair["small"].parameters / 8
    assert all(0.95 * given < row.bytes <= row.given_bytes == given for row in rows)
    alone = kronq.quantize(pair["small"], kronq.Compact(bpw=4))
    assert rows[0].bytes == kronq.measure(pair["small"], alone).total.bytes


def test_sizes_and_files_that_cannot_be_so_small() -> None:
    found = compare(large_pair(), (), sizes=("3KB", 300))
    files = [(row.adapter, row.method) for row in found.rows]
    assert files == [(a, m) for a in ("small", "large") for m in ("native", "compact")]
    assert all(row.bytes <= 3000 for row in found.rows)
    assert [line.split(":")[0] for line in found.left_out] == [f"{a}, {m}" for a, m in files]
    assert str(found).splitlines()[-5:-1] == found.left_out
    with pytest.raises(KronqError, match="does not fit"):
        compare(large_pair(), (), sizes=(300,), methods=("compact",))
    with pytest.raises(KronqError, match="rtn codes fill no size"):
        compare(large_pair(), (), sizes=(3000,), methods=("rtn",))


def test_the_winner_is_the_one_with_less_error_in_as_few_bytes() -> None:
    """A pair of files counts where the better one is not the larger one."""
    found = compare(large_pair(), (8,))
    assert found.verdict is not None
    assert found.verdict.winner == "small"
    rows = {(row.adapter, row.method, row.bits): row for row in found.rows}
    best_of_large = max(
        row.snr_db
        for row in found.rows
        if row.adapter == "large" and row.bytes <= 1.01 * rows["small", "compact", 8].bytes
        if row.snr_db is not None
    )
    snr = rows["small", "compact", 8].snr_db
    assert snr is not None
    assert snr - best_of_large == pytest.approx(max(found.verdict.margins_db["small"]))
    line = str(found).splitlines()[-1]
    assert line.startswith("at equal bytes small loses least of its own ΔW, at all ")
    rng = np.random.default_rng(2)
    wide = Adapter({f"l.{i}": adapters.kron(rng, (4, 4), (256, 256), 8) for i in range(4)})
    methods = compare({"x": wide}, (), sizes=("5500",)).verdict
    assert methods is not None
    assert (methods.between, methods.winner) == ("methods", "compact")
    assert compare({"x": adapters.adapter()}, (4,), methods=("rtn",)).verdict is None


def test_baselines_count_bits_per_trained_parameter() -> None:
    """A rank truncated to half has half the weights; bits are per trained weight."""
    adapter = adapters.adapter()
    chosen = [b for b in BASELINES if b.name in ("rank 4/8 fp16", "olive int4 b32")]
    rows = compare(
        {"x": adapter, "y": adapters.adapter(1)}, (4,), methods=("balanced",), baselines=chosen
    ).rows
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
        compare({"x": adapter}, (2.5,), methods=("native",))


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
    assert seen == [(i, 6) for i in range(1, 7)]


def test_plots_are_reproducible(comparison: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = [plot_comparison(comparison, tmp_path / f"{i}.svg").read_bytes() for i in range(2)]
    assert pictures[0] == pictures[1]
    assert b"<svg" in pictures[0]
    assert b"kron, Gaussian bound" in pictures[0]
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
    assert lines[0] == "kron: kron, 3,120 parameters"
    assert len(lines) == 2 + 1 + len(comparison.rows) + 1
    assert lines[2].endswith("others in no more bytes")
    assert lines[-1].startswith("at equal bytes")
    assert repr(comparison) == f"Comparison({len(comparison.rows)} rows of kron, lora)"
    assert comparison._repr_html_().count("<tr>") == 1 + len(comparison.rows)


def test_a_table_fits_eighty_columns(comparison: Comparison) -> None:
    named = {"arc-easy-lokr-r8": "kron", "arc-easy-lora-r8": "lora"}
    rows = [
        row.model_copy(update={"adapter": name, "bytes": 1_000_000 + row.bytes})
        for name, old in named.items()
        for row in comparison.rows
        if row.adapter == old
    ]
    text = Comparison(rows=rows, verdict=comparison.verdict).view().text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"{row.bytes:,}" in text for row in rows)


def test_plots_take_names_literally_on_light_and_on_dark(
    comparison: Comparison, tmp_path: Path
) -> None:
    """``$`` begins no formula, and a leading underscore hides nothing."""
    pytest.importorskip("matplotlib")
    rows = [
        row.model_copy(update={"adapter": {"kron": "$x^2$", "lora": "_mine"}[row.adapter]})
        for row in comparison.rows
    ]
    pictures = [
        plot_comparison(Comparison(rows=rows), tmp_path / f"{dark}.svg", dark=dark).read_text()
        for dark in (False, True)
    ]
    for picture in pictures:
        assert "<!-- $x^2$, rtn -->" in picture
        assert "<!-- _mine, rtn -->" in picture
        assert "<!-- Error of ΔW over file size: $x^2$, _mine -->" in picture
    assert METHODS["rtn"].light in pictures[0]
    assert METHODS["rtn"].dark in pictures[1]


def test_no_label_of_a_plot_is_over_another(comparison: Comparison) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = [(x / 40, x / 40) for x in range(40)]
    axes.plot(*zip(*points, strict=True), "o")
    place_labels(axes, [("4 bit", point, "black") for point in points])
    canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert 10 < len(boxes) < 40
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    place = axes.get_window_extent()
    assert all(place.x0 <= box.x0 and box.x1 <= place.x1 for box in boxes)


def test_lines_between_points_stay_above_the_bound(comparison: Comparison) -> None:
    """In the plot's axes: the logarithm of the error over bytes."""
    between = 0
    for name, points in comparison.bounds.items():
        rows = [row for row in comparison.rows if row.adapter == name and row.bits < 16]
        for method in {row.method for row in rows}:
            curve = sorted((r.bytes, r.snr_db) for r in rows if r.method == method and r.snr_db)
            sizes, snr = zip(*curve, strict=True)
            for point in points:
                if sizes[0] <= point.bytes <= sizes[-1]:
                    assert np.interp(point.bytes, sizes, snr) <= point.snr_db
                    between += 1
    assert between > 40
