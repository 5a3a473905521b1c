"""A stranger's study: its YAML, and a folder of results, are read or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kronq.errors import FormatError
from kronq.study.config import read_study
from kronq.study.store import Scores, Store
from tests.attacks.refusals import assert_code
from tests.cli.command import Kronq
from tests.cli.test_control_characters import assert_harmless

pytest.importorskip("yaml")
pytest.importorskip("pyarrow")
pytest.importorskip("torch")

STUDY = """
families:
  small: {family: lora, rank: 4}
tasks:
  sums: {train: sums.jsonl, test_share: 0.5}
methods:
  - {method: native, bits: [4]}
"""
ESCAPE = r'"\x1b[2J\x9b\u202e"'


def bomb(levels: int) -> str:
    """Merges of merges: 10 to the power of ``levels`` names."""
    merged = "".join(
        f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}\n" for n in range(1, levels + 1)
    )
    return f"m0: &m0 {{a: 1}}\n{merged}"


def laughs(levels: int) -> str:
    lists = "".join(
        f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, levels + 1)
    )
    return f"l0: &l0 [x]\n{lists}seeds: *l{levels}\n"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    rows = [json.dumps({"text": f"one {n}"}) + "\n" for n in range(8)]
    (tmp_path / "sums.jsonl").write_text("".join(rows))
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Kronq:
    return Kronq(capsys)


def dry_run(verb: Kronq, desk: Path, text: str | bytes, *options: str) -> str:
    """Plans a study; returns all that is printed."""
    file = desk / "study.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    result = verb("study", file, "-o", desk / "out", "--dry-run", *options)
    assert result.code in (0, 2)
    assert result.err.count("\n") == (result.code == 2), result.err
    assert len(result.err) < 2000
    assert_harmless(result.out + result.err)
    assert sorted(f.name for f in desk.iterdir()) == ["base", "study.yaml", "sums.jsonl"]
    return result.out if result.code == 0 else f"refused: {result.err}"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_names_steer_no_terminal(verb: Kronq, desk: Path, options: tuple[str, ...]) -> None:
    text = STUDY.replace("small", ESCAPE).replace("sums:", f"{ESCAPE}:")
    assert "\\" in dry_run(verb, desk, f"name: {ESCAPE}\n{text}", *options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "[1]",
        "7",
        b"\xff\xfe\0",
        "a: b: c",
        "&a [*a]",
        "[" * 5000,
        "{a: " * 5000,
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "? [a, b]\n: 1\n",
        "seeds: [0]\nseeds: [1]\n" + STUDY,
        STUDY.replace("  small:", "  small: {family: lora, rank: 2}\n  small:"),
        bomb(9) + STUDY,
        laughs(9) + STUDY,
        "# " + "x" * 2**18,
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_texts_that_are_no_study(verb: Kronq, desk: Path, text: str | bytes) -> None:
    assert dry_run(verb, desk, text).startswith("refused")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rank: 4", "rank: 1000000000000"),
        ("rank: 4", "rank: -1"),
        ("rank: 4", "rank: [4]"),
        ("rank: 4", "rank: 1.0e+400"),
        ("rank: 4", "rank: 4, rate: .nan"),
        ("rank: 4", "rank: 4, rate: .inf"),
        ("rank: 4", "rank: 4, alpha: .nan"),
        ("rank: 4", "rank: 4, clip: .nan"),
        ("rank: 4", "rank: 4, only: '(a+)+$'"),
        ("rank: 4", "rank: 4, factor: 0"),
        ("family: lora", "family: 2020-01-01"),
        ("bits: [4]", "bits: [.nan]"),
        ("bits: [4]", "bits: [1.0e+300]"),
        ("bits: [4]", "bits: [4.5]"),
        ("bits: [4]", "sizes: ['999999999999GB']"),
        ("bits: [4]", "sizes: [-1]"),
        ("sums.jsonl", '"a\\0b"'),
        ("sums.jsonl", '"\\ud800"'),
        ("sums.jsonl", "/etc/hostname/x"),
        ("test_share: 0.5", "test_share: .nan"),
        ("test_share: 0.5", "test_share: 0.5, questions: 99999999999999"),
        ("test_share: 0.5", "test_share: 0.5, split_seed: 1.5"),
        ("families:", f"seeds: [{', '.join(map(str, range(30_000)))}]\nfamilies:"),
        ("families:", "seeds: [-1]\nfamilies:"),
        ("families:", 'base: "a\\0b"\nfamilies:'),
        ("families:", 'name: "\\ud800"\nfamilies:'),
    ],
)
def test_values_are_planned_or_refused(verb: Kronq, desk: Path, old: str, new: str) -> None:
    assert old in STUDY
    dry_run(verb, desk, STUDY.replace(old, new))


def test_seeds_by_the_million(verb: Kronq, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRONQ_MAX_CHAINS", "2")
    told = dry_run(verb, desk, "seeds: [1, 2, 3]\n" + STUDY)
    assert "too many adapters in a study" in told


@pytest.mark.parametrize(
    "told",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"nll": [1], "nll": [2]}',
        b'{"nll": 1, "tokens": [1], "recalled": [true], "right": null, '
        b'"right_normalized": null, "seconds": 1}',
        b'{"nll": ["a"], "tokens": [1], "recalled": [true], "right": null, '
        b'"right_normalized": null, "seconds": 1}',
        b'{"nll": [1, 2], "tokens": [1], "recalled": [true], "right": null, '
        b'"right_normalized": null, "seconds": 1}',
        b'{"nll": [1], "tokens": [0], "recalled": [true], "right": null, '
        b'"right_normalized": null, "seconds": 1}',
        b'{"nll": [NaN], "tokens": [1], "recalled": [true], "right": null, '
        b'"right_normalized": null, "seconds": 1}',
        b'{"nll": [1], "tokens": [1], "recalled": [true], "right": null, '
        b'"right_normalized": null, "seconds": -1}',
        b'{"nll": [1], "tokens": [1' + b"0" * 400 + b'], "recalled": [true], "right": null, '
        b'"right_normalized": null, "seconds": 1}',
        b'{"nll": [1], "tokens": [1], "recalled": [true], "right": [], '
        b'"right_normalized": [], "seconds": 1}',
        b'{"nll": [1], "tokens": [1], "recalled": [true], "right": [true], '
        b'"right_normalized": null, "seconds": 1}',
    ],
)
def test_scores_of_a_folder_that_was_changed(tmp_path: Path, told: bytes) -> None:
    store = Store(tmp_path / "study")
    store.open()
    kept = Scores((1.5, 2.0), (3, 4), (True, False), None, None, 0.25)
    store.write_scores("good", kept)
    assert store.scores("good") == kept
    (store.root / "scores/bad.json").write_bytes(told)
    with pytest.raises(FormatError) as error:
        store.scores("bad")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "told",
    [
        *(b'{"bytes": "many"}', b'{"left_out": 1}', b'{"seconds": []}', b"null"),
        *(b'{"bytes": -5}', b'{"weight_error": NaN}', b'{"parameters": 1' + b"0" * 400 + b"}"),
    ],
)
def test_facts_of_a_folder_that_was_changed(tmp_path: Path, told: bytes) -> None:
    store = Store(tmp_path / "study")
    store.open()
    store.write_facts("files", "good", {"bytes": 12, "seconds": 0.5, "weight_error": 0.1})
    facts = store.facts("files", "good")
    assert facts is not None
    assert facts["bytes"] == 12
    (store.root / "files/bad.json").write_bytes(told)
    with pytest.raises(FormatError):
        store.facts("files", "bad")


def test_a_changed_digit_of_a_result_is_noticed(tmp_path: Path) -> None:
    """Files that were written before there were checksums are read as they are."""
    store = Store(tmp_path / "study")
    store.open()
    store.write_facts("files", "a", {"bytes": 12, "seconds": 0.5})
    store.write_scores("a", Scores((1.5,), (3,), (True,), None, None, 0.25))
    for file, read in (
        (store.root / "files/a.json", lambda: store.facts("files", "a")),
        (store.root / "scores/a.json", lambda: store.scores("a")),
    ):
        text = file.read_text()
        file.write_text(text.replace("5", "6", 1))
        assert_code("checksum", read, file)
        told = json.loads(text)
        del told["crc32"]
        file.write_text(json.dumps(told))
        assert read() is not None


def test_a_study_whose_aliases_share_settings_is_read(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("small: {", "small: &small {") + "\npairs: []\n")
    text = file.read_text().replace("tasks:", "  large:\n    <<: *small\n    rank: 16\ntasks:")
    file.write_text(text)
    study = read_study(file)
    assert (study.families["large"].family, study.families["large"].rank) == ("lora", 16)
