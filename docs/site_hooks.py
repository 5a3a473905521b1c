"""Publishes the files outside docs/ that pages link to, and points the links at them.

A link in a page works both in a checkout, where it leaves docs/ (``../../formats/SPEC.md``), and on
the site, where the file stands beside the pages (``../formats/SPEC.md``).
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = (
    "formats/SPEC.md",
    "formats/*.schema.json",
    "formats/golden/*.*",
    "formats/golden/*/*.*",
    "examples/README.md",
    "tests/formats/reader.py",
    "tests/formats/stream.py",
)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the published files."""
    for pattern in PUBLISHED:
        for path in sorted(filter(Path.is_file, ROOT.glob(pattern))):
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Rewrites links to published files; all others stay as they are and are checked by mkdocs."""
    folder = Path(page.file.abs_src_path).parent

    def rewrite(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if target.is_relative_to(ROOT):
            uri = target.relative_to(ROOT).as_posix()
            if files.get_file_from_path(uri) is not None:
                return posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
        return match[0]

    return LINK.sub(rewrite, markdown)
