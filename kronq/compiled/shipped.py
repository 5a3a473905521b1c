"""The libraries that kronq's wheel carries, one for each program and platform.

``make wheel`` makes them (tools/wheel.py) and records the SHA-256 of each. A checkout has none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from kronq.compiled.compiler import Program
from kronq.compiled.platforms import SHIPPED, library_name
from kronq.errors import KronqError

FOLDER = Path(__file__).parent / "libraries"
RECORD = "SHA256SUMS"
"""File in the folder, as ``sha256sum`` writes and checks it: lines of ``HASH  NAME``."""


def shipped_library(program: Program, platform: str) -> Path | None:
    """Returns a program's library as the wheel carries it; None where there is none.

    Args:
        program: The program.
        platform: One of ``SHIPPED``, or any other, for which there is none.

    Raises:
        KronqError: It is missing or damaged.
    """
    record = FOLDER / RECORD
    if platform not in SHIPPED or not record.is_file():
        return None
    library = FOLDER / library_name(program.name, platform)
    lines = [line.split(maxsplit=1) for line in record.read_text().splitlines()]
    hashes = {line[1]: line[0] for line in lines if len(line) == 2}
    found = hashlib.sha256(library.read_bytes()).hexdigest() if library.is_file() else "no file"
    expected = hashes.get(library.name, f"a line in {RECORD}")
    if found != expected:
        raise KronqError(
            "a library that kronq was installed with is damaged",
            path=library,
            found=found,
            expected=expected,
            hint="pip install --force-reinstall --no-deps kronq",
        )
    return library
