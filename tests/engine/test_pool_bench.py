"""``kronq bench --pool``."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kronq import Pool
from kronq.engine.pool_bench import bench_pool, steps_of_ten
from kronq.errors import ArgumentError
from kronq.pool.folder import make_pool
from tests.cli.command import Kronq
from tests.engine.pool_app import export_app, has_operator, make_adapter

pytestmark = pytest.mark.skipif(not has_operator(), reason="needs a C compiler")


@pytest.fixture
def kronq(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


@pytest.fixture(scope="module")
def desk(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with compiled slots, app, and a pool of twelve adapters."""
    folder = tmp_path_factory.mktemp("pool-bench")
    export_app(tiny_base, folder / "app")
    make_pool(folder / "pool")
    with Pool.open(folder / "pool") as pool:
        for seed in range(12):
            pool.add(f"a{seed}", make_adapter(seed))
    return folder


def test_every_number_of_adapters_and_of_rows_is_timed(kronq: Kronq, desk: Path) -> None:
    options = ("--pool", desk / "pool", "--rows", "3,1", "--rounds", 1, "--threads", 1)
    report = kronq("bench", desk / "app", *options, "--json").json()
    assert "points" in report, report
    points = [(each["rows"], each["adapters"]) for each in report["points"]]
    assert points == [(rows, adapters) for rows in (1, 3) for adapters in (0, 1, 10, 12)]
    for each in report["points"]:
        assert each["step_ms"]["n"] == report["rounds"] == 4
        rate = 1000 * each["rows"] / each["step_ms"]["median"]
        assert each["tokens_per_second"] == pytest.approx(rate)
        assert (each["ratio"] is None) == (each["adapters"] == 0)
    with Pool.open(desk / "pool") as pool:
        assert len(pool) == 12


def test_a_table_and_a_plot(kronq: Kronq, desk: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "pool.svg"
    options = ("--pool", desk / "pool", "--rows", "1,2", "--rounds", 1, "--plot", plot)
    text = kronq("bench", desk / "app", *options).out
    assert text.splitlines()[0].split()[:4] == ["rows", "adapters", "tokens/s", "ms"]
    assert [line.split()[:2] for line in text.splitlines()[1:5]] == [
        ["1", "none"],
        ["1", "1"],
        ["1", "10"],
        ["1", "12"],
    ]
    assert f"wrote {plot}" in text
    assert ET.parse(plot).getroot().tag.endswith("svg")  # noqa: S314 - our own
    assert "mathdefault" not in plot.read_text()
    assert "exists" in kronq.refuses("bench", desk / "app", *options)


def test_what_cannot_be_timed(kronq: Kronq, desk: Path, tiny_base: Path, tmp_path: Path) -> None:
    pool = ("--pool", desk / "pool")
    assert "no slots" in kronq.refuses("bench", tiny_base, *pool)
    assert "--rows" in kronq.refuses("bench", desk / "app", *pool, "--rows", "1,x")
    assert "not for --pool; found --base" in kronq.refuses(
        "bench", desk / "app", *pool, "--base", tiny_base
    )
    assert "--plot is for --pool" in kronq.refuses("bench", desk / "app", "--plot", "x.svg")
    make_pool(tmp_path / "empty")
    with pytest.raises(ArgumentError, match="the pool has no adapters"):
        bench_pool(desk / "app", tmp_path / "empty")


def test_steps_of_ten() -> None:
    assert steps_of_ten(1) == [1]
    assert steps_of_ten(10) == [1, 10]
    assert steps_of_ten(2500) == [1, 10, 100, 1000, 2500]
