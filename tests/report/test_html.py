"""HTML page of a report: complete, self-contained, and safe with hostile layer names."""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import kronq
from kronq.errors import KronqError, OutputExistsError
from kronq.model.adapter import Adapter, Origin
from kronq.quantization.config_names import config_for
from kronq.report.bound import gaussian_bound
from kronq.report.comparison import compare
from kronq.report.comparison_models import Comparison
from kronq.report.html import compare_widths, width_curves, write_html
from kronq.report.html.chart import format_percent, format_size
from kronq.report.html.chart_labels import place_labels
from kronq.report.measurement import measure
from kronq.report.palette import METHODS
from kronq.report.report import Report
from tests import adapters
from tests.paths import EXAMPLE
from tests.report.test_statistics import seen

HOSTILE = '</title></text><script>alert("1")</script><a href="javascript:x">\u202e\x1b[31m & \'q\''


def blocks(rows: int = 4) -> Adapter:
    rng = np.random.default_rng(0)
    layers = {
        f"model.layers.{i}.{kind}": adapters.kron(rng, b=(48, 40))
        for i in range(rows)
        for kind in ("attn.q_proj", "mlp.up_proj")
    }
    return Adapter(layers, Origin("peft", Path("adapters/mine"), base_model="maker/base"))


@pytest.fixture(scope="module")
def report() -> Report:
    adapter = blocks()
    return measure(adapter, kronq.quantize(adapter, kronq.Uniform()), second_moments=seen(adapter))


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare({"mine": blocks()}, (8, 4, 2), methods=("balanced", "rtn"))


def parsed(path: Path) -> ElementTree.Element:
    """Parses the page as strict XML."""
    text = path.read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314


def curve(root: ElementTree.Element) -> ElementTree.Element:
    """The rate–error chart for a desk."""
    return next(svg for svg in root.iter("svg") if svg.get("class") == "chart")


def words(root: ElementTree.Element) -> str:
    return " ".join(part.strip() for part in root.itertext())


def test_page_has_all_sections_and_layers(
    report: Report, comparison: Comparison, tmp_path: Path
) -> None:
    path = write_html(
        report, tmp_path / "a.html", comparison=comparison, bound=gaussian_bound(blocks())
    )
    root = parsed(path)
    text = words(root)
    headings = [h.text for h in root.iter("h2")]
    assert headings == ["Error and size", "Where it is", "Layers", "Codes", "How it was made"]
    assert root.find(".//h1").text == "mine"  # type: ignore[union-attr]
    for layer in report.layers:
        assert text.count(f"{layer.name}: {format_percent(layer.relative_error)}") >= 1
    for told in ("balanced", "rtn", "bound", "this file", "maker/base", "text.jsonl, 1,000 tokens"):
        assert told in text
    assert format_percent(report.total.activation_error) in text


def test_page_is_self_contained(report: Report, comparison: Comparison, tmp_path: Path) -> None:
    text = write_html(report, tmp_path / "a.html", comparison=comparison).read_text("utf-8")
    assert not re.search(r"<script|<link|<img|<iframe|\bsrc=|\bhref=|url\(|@import|https?:", text)
    assert "default-src &#x27;none&#x27;" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_drawings_and_tables_are_labelled(
    report: Report, comparison: Comparison, tmp_path: Path
) -> None:
    root = parsed(write_html(report, tmp_path / "a.html", comparison=comparison))
    assert root.get("lang") == "en"
    pictures = list(root.iter("svg"))
    assert len(pictures) == 8  # the curve, two maps and a histogram, for a desk and for a phone
    for svg in pictures:
        assert svg.get("role") == "img"
        assert svg.get("aria-label")
        assert svg.find("title") is not None
    for table in root.iter("table"):
        assert table.find("caption") is not None
        assert all(cell.get("scope") for cell in table.iter("th"))
    uses = set(re.findall(r"var\((--\w+)\)", (style := root.find(".//style").text or "")))  # type: ignore[union-attr]
    assert uses <= set(re.findall(r"(--\w+):", style))


def test_shapes_lie_within_their_view_boxes(
    report: Report, comparison: Comparison, tmp_path: Path
) -> None:
    root = parsed(
        write_html(
            report, tmp_path / "a.html", comparison=comparison, bound=gaussian_bound(blocks())
        )
    )
    for svg in root.iter("svg"):
        _, _, width, height = map(float, (svg.get("viewBox") or "").split())
        for shape in svg.iter():
            points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", shape.get("points", ""))
            if shape.tag in ("rect", "text"):
                points.append((shape.get("x", "0"), shape.get("y", "0")))
            if shape.tag == "circle":
                points.append((shape.get("cx", ""), shape.get("cy", "")))
            for x, y in points:
                assert 0 <= float(x) <= width
                assert 0 <= float(y) <= height


def test_lines_have_the_points_of_the_comparison(
    report: Report, comparison: Comparison, tmp_path: Path
) -> None:
    """Points lie on a linear axis of bits and a logarithmic axis of error."""
    root = parsed(write_html(report, tmp_path / "a.html", comparison=comparison))
    lines = [p.get("points") or "" for p in curve(root).iter("polyline")]
    for line, method in zip(lines, ("balanced", "rtn"), strict=True):
        places = np.array([list(map(float, pair.split(","))) for pair in line.split()])
        rows = [r for r in comparison.rows if r.method == method]
        figures = {(8 * r.bytes / report.total.parameters, r.relative_error) for r in rows}
        bits, errors = np.array(sorted(f for f in figures if f[0] <= 10)).T
        for axis, told in ((places[:, 0], bits), (places[:, 1], np.log(errors))):
            slope, offset = np.polyfit(told, axis, 1)
            assert np.allclose(slope * told + offset, axis, atol=0.2)
        assert (np.diff(places, axis=0) > 0).all()


def test_baselines_have_one_line_per_tool(
    report: Report, comparison: Comparison, tmp_path: Path
) -> None:
    """All settings of a tool share a line."""
    rows = [
        row.model_copy(update={"method": f"olive int{row.bits} b32", "source": "baseline"})
        for row in comparison.rows
        if row.method == "rtn"
    ]
    told = comparison.model_copy(update={"rows": rows})
    root = parsed(write_html(report, tmp_path / "a.html", comparison=told))
    (group,) = (g for g in curve(root).iter("g") if g.get("class") == "series s-baseline")
    shown = [row for row in rows if 8 * row.bytes / report.total.parameters <= 10]
    assert len(list(group.iter("polygon"))) == len(shown) > 1
    assert len(list(group.iter("polyline"))) == 1
    assert f"olive int2 b32, 2 bit, {rows[-1].bytes:,} bytes" in words(root)
    assert [t.text for t in curve(root).iter("text") if t.get("class") == "label s-baseline"] == [
        "olive"
    ]


def test_texts_lie_within_their_pictures(tmp_path: Path) -> None:
    """Ticks, figures and names of layers, however long, by the width of their letters."""
    rng = np.random.default_rng(0)
    name = "text_model.encoder.layers.{}.a_block_with_a_long_name.{}_proj_of_everything"
    layers = {name.format(i, kind): adapters.kron(rng) for i in range(2) for kind in "qkv"}
    adapter = Adapter(layers, Origin("peft", Path("small")))
    report = measure(adapter, kronq.quantize(adapter, kronq.Native(bits=8)))
    curves = compare_widths(adapter, report)
    root = parsed(write_html(report, tmp_path / "a.html", curves=curves))
    ticks = {text.text for text in root.iter("text")}
    assert {"−128", "0"} <= ticks
    for svg in root.iter("svg"):
        width = float((svg.get("viewBox") or "").split()[2])
        for text in svg.iter("text"):
            x, length = float(text.get("x", "0")), 6.2 * len(text.text or "")
            begin = {"middle": x - length / 2, "end": x - length}.get(
                text.get("text-anchor", ""), x
            )
            assert begin >= -1, text.text
            assert begin + length <= width + 1, text.text


def test_labels_of_lines_are_on_no_line() -> None:
    lines = [
        [(64.0, 20.0), (500.0, 200.0), (900.0, 380.0)],
        [(64.0, 40.0), (480.0, 215.0)],  # ends beside the first
        [(300.0, 117.0)],  # lies on it
        [(64.0, 60.0), (900.0, 395.0)],
    ]
    labels = ["native", "compact", "this file", "bound"]
    places = place_labels(labels, lines)
    for label, (x, y) in zip(labels, places, strict=True):
        for line in lines:
            for (x0, y0), (x1, y1) in itertools.pairwise(line):
                on_line = np.linspace(0, 1, 500)
                xs, ys = x0 + (x1 - x0) * on_line, y0 + (y1 - y0) * on_line
                inside = (x < xs) & (xs < x + 6.5 * len(label)) & (y - 10 < ys) & (ys < y + 3)
                assert not inside.any(), label


@pytest.mark.parametrize("method", ["native", "compact", "rtn"])
def test_the_page_has_curves_of_native_and_compact(tmp_path: Path, method: str) -> None:
    """Each in its method's own colour; the file is a mark of its own, on no line."""
    adapter = blocks(8)
    report = measure(adapter, kronq.quantize(adapter, config_for(method, 3)))
    curves = compare_widths(adapter, report)
    root = parsed(write_html(report, tmp_path / "a.html", curves=curves))
    styles = [g.get("class") for g in curve(root).iter("g") if "series" in g.get("class", "")]
    expected = {"native", "compact", method, "file"}
    assert sorted(filter(None, styles)) == sorted(f"series s-{name}" for name in expected)
    sheet = root.find(".//style").text or ""  # type: ignore[union-attr]
    for name in expected - {"file"}:
        assert f".s-{name} {{ color: {METHODS[name].light}; }}" in sheet
    groups = {g.get("class"): g for g in curve(root).iter("g")}
    assert not list(groups["series s-file"].iter("polyline"))
    marks = len(list(groups[f"series s-{method}"].iter("circle")))
    assert marks == sum(point.method == method for point in curves.points if point.error > 0)


def test_curves_of_a_large_adapter_are_estimated_on_some_layers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    adapter = blocks(24)
    report = measure(adapter, kronq.quantize(adapter, bits=4))
    monkeypatch.setattr(width_curves, "_SAMPLE", adapter.parameters // 3)
    curves = compare_widths(adapter, report)
    assert (curves.layers, curves.of) == (16, 48)
    path = write_html(report, tmp_path / "a.html", curves=curves)
    assert "estimated on 16 of the 48 layers" in words(parsed(path))


@pytest.mark.slow
def test_the_page_costs_at_most_three_times_the_quantizing(tmp_path: Path) -> None:
    """And its estimated curves are near to what all layers have."""
    adapter = kronq.load(EXAMPLE)
    kronq.quantize(blocks(), bits=3)  # imports
    begin = time.process_time()
    report = measure(adapter, kronq.quantize(adapter, bits=3))
    quantizing = time.process_time() - begin
    begin = time.process_time()
    bound = gaussian_bound(adapter)
    curves = compare_widths(adapter, report)
    write_html(report, tmp_path / "a.html", curves=curves, bound=bound)
    assert time.process_time() - begin <= 3 * quantizing
    assert curves.layers < len(adapter)
    for row in compare({"a": adapter}, (4, 2), methods=("native", "compact")).rows:
        (point,) = (p for p in curves.points if (p.method, p.bits) == (row.method, row.bits))
        bits = 8 * (point.nbytes - row.bytes) / adapter.parameters
        assert point.error == pytest.approx(row.relative_error * 2**-bits, rel=0.08)


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = {f"{HOSTILE}.{i}.{HOSTILE}": adapters.kron(rng, b=(48, 40)) for i in range(3)}
    adapter = Adapter(layers, Origin("peft", Path(HOSTILE), base_model=HOSTILE))
    quantized = kronq.quantize(adapter, bits=4)
    report = measure(adapter, quantized)
    comparison = compare({HOSTILE: adapter, "b": adapter}, (4,))
    path = write_html(report, tmp_path / "a.html", comparison=comparison)
    text = path.read_text("utf-8")
    root = parsed(path)
    assert not list(root.iter("script"))
    assert not list(root.iter("a"))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert '<script>alert("1")' in words(root)


@pytest.mark.parametrize("bits", [16, 8, 2])
def test_any_adapter_has_a_page(tmp_path: Path, bits: int) -> None:
    rng = np.random.default_rng(0)
    zero = {n: replace(d, scale=0.0) for n, d in blocks(2).items()}
    some = {
        "alone": Adapter({"x": adapters.lora(rng, 40, 40)}),
        "no numbers": Adapter({"a": adapters.full_b(rng), "b": adapters.lora(rng)}),
        "many kinds": Adapter({f"{'x' * i}.1": adapters.lora(rng) for i in range(1, 90)}),
        "zero": Adapter(zero),
        "every kind": adapters.adapter(),
    }
    for name, adapter in some.items():
        report = measure(adapter, kronq.quantize(adapter, bits=bits))
        root = parsed(write_html(report, tmp_path / f"{name}.html", bound=gaussian_bound(adapter)))
        assert "nan" not in words(root).lower()
    exact = measure(blocks(), blocks())
    assert "exact" in words(parsed(write_html(exact, tmp_path / "exact.html")))


def test_a_compact_file(tmp_path: Path) -> None:
    """Coding costs differ by layer, and have a third map."""
    adapter = blocks(12)
    loud = {n: replace(d, scale=d.scale * 2.0**-i) for i, (n, d) in enumerate(adapter.items())}
    adapter = replace(adapter, layers=loud)
    report = measure(adapter, kronq.quantize(adapter, kronq.Compact(bpw=3)))
    root = parsed(write_html(report, tmp_path / "a.html"))
    captions = [c.text for c in root.iter("figcaption")]
    assert captions[:2] == ["Relative error of ΔW, %", "Bits spent per parameter"]
    assert captions[2] is not None
    assert captions[2].startswith("levels: ")


def test_the_same_report_gives_the_same_bytes(report: Report, tmp_path: Path) -> None:
    one, two = (write_html(report, tmp_path / n).read_bytes() for n in ("a.html", "b.html"))
    assert one == two


def test_refuses_existing_files_and_other_suffixes(report: Report, tmp_path: Path) -> None:
    path = write_html(report, tmp_path / "a.html")
    with pytest.raises(OutputExistsError):
        write_html(report, path)
    write_html(report, path, force=True)
    with pytest.raises(KronqError, match=r"expected an \.html file"):
        write_html(report, tmp_path / "a.txt")


def test_number_formats() -> None:
    shares = (None, 0, 1e-7, 0.00031, 0.0065, 0.104, 0.9996, 1, 18.0)
    assert [format_percent(s) for s in shares] == [
        "–", "0 %", "1.0e-05 %", "0.0310 %", "0.650 %", "10.4 %", "100 %", "100 %", "1800 %"
    ]  # fmt: skip
    assert [format_size(n) for n in (0, 1234, 321_368, 5_200_000)] == [
        "0",
        "1.2 kB",
        "321 kB",
        "5.20 MB",
    ]
