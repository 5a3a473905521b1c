"""Every relative link and every named page of the documentation exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import kronq
from tests.docs.pages import DOCS
from tests.paths import ROOT

TEXTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "examples/README.md",
    "formats/SPEC.md",
)
PAGES = [*(ROOT / name for name in TEXTS), *DOCS]
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"docs/[\w/-]+\.md|formats/\w+\.(?:md|json)")
LIVING = ("kronq", "examples", "benchmarks", "tests")


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_to_a_file_and_a_heading(page: str) -> None:
    path = ROOT / page
    for link in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_pages_that_code_and_texts_name_are_there() -> None:
    sources = [file for room in LIVING for file in (ROOT / room).rglob("*.py")]
    for file in [*PAGES, *sources]:
        for name in NAMED.findall(file.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{file.relative_to(ROOT)}: {name}"


def test_the_architecture_names_files_and_what_they_define() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    files = re.findall(r"`([\w./]+/[\w./]*)`", text)
    assert [name for name in files if not (ROOT / name).exists()] == []
    rows = re.findall(r"\| `([\w/]+\.py)` \| `(\w+)` \|", text)
    assert len(rows) > 10
    for file, name in rows:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^(?:def|class) {name}\b", source, re.MULTILINE), (file, name)


def test_the_architecture_lists_the_rooms_in_the_order_of_imports() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    assert listed == [layer for layer in reversed(layers) if layer != "__main__"]


def test_every_public_name_has_its_documentation() -> None:
    pages = [ROOT / "docs" / "reference" / name for name in ("python.md", "errors.md")]
    documented = re.findall(r"^::: kronq\.(\w+)$", "".join(map(Path.read_text, pages)), re.M)
    assert sorted(documented) == sorted(kronq.__all__)


def _anchors(page: Path) -> set[str]:
    """Anchors of the headings, as Python-Markdown makes them: letters of ASCII, lower case."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {_slug(heading) for heading in headings}


def _slug(heading: str) -> str:
    ascii_only = re.sub(r"[^\w\s-]", "", heading.encode("ascii", "ignore").decode())
    return re.sub(r"[-\s]+", "-", ascii_only.strip().lower())
