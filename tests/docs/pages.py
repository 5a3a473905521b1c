"""The pages of the documentation and their code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if "node_modules" not in path.parts)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Languages: ``sh`` is run line by line, ``bash`` only parsed (it takes long or needs more than a
    test has), ``python`` is run, and a block without a language after ``sh`` is its output.
    """

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.replace("\\\n", " ").strip().splitlines()


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def pages_with(*languages: str) -> list[str]:
    """Pages that have blocks in one of these languages, as paths in the checkout."""
    return [
        str(page.relative_to(ROOT))
        for page in [ROOT / "README.md", *DOCS]
        if any(block.language in languages for block in blocks(page))
    ]
