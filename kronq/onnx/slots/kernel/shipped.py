"""The operator's libraries that kronq's wheel carries, one for each platform.

``make wheel`` makes them (tools/wheel.py) and records the SHA-256 of each. A checkout has none.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import sysconfig
from pathlib import Path

from kronq.errors import KronqError

FOLDER = Path(__file__).parent / "libraries"
RECORD = "SHA256SUMS"
"""File in the folder, as ``sha256sum`` writes and checks it: lines of ``HASH  PLATFORM/NAME``."""

NAMES = {
    "linux-x86_64": "libkronq.so",
    "linux-aarch64": "libkronq.so",
    "macosx-x86_64": "libkronq.dylib",
    "macosx-arm64": "libkronq.dylib",
    "win-amd64": "kronq.dll",
    "win-arm64": "kronq.dll",
}
"""Platform → its library's name."""


def shipped_library() -> Path | None:
    """Returns this platform's library as the wheel carries it; None where there is none.

    Raises:
        KronqError: It is missing or damaged.
    """
    here, record = this_platform(), FOLDER / RECORD
    if here not in NAMES or not record.is_file():
        return None
    library = FOLDER / here / NAMES[here]
    lines = [line.split(maxsplit=1) for line in record.read_text().splitlines()]
    hashes = {line[1]: line[0] for line in lines if len(line) == 2}
    found = hashlib.sha256(library.read_bytes()).hexdigest() if library.is_file() else "no file"
    expected = hashes.get(f"{here}/{library.name}", "a line in SHA256SUMS")
    if found != expected:
        raise KronqError(
            "the operator's library that kronq was installed with is damaged",
            path=library,
            found=found,
            expected=expected,
            hint="pip install --force-reinstall --no-deps kronq",
        )
    return library


def this_platform() -> str | None:
    """Returns the platform of this Python, ``linux-x86_64``; None for a Linux without glibc."""
    if sys.platform == "win32":
        return sysconfig.get_platform()  # platform.machine() names the machine, not its emulation
    if sys.platform == "darwin":
        return f"macosx-{platform.machine()}"
    return f"linux-{platform.machine()}" if platform.libc_ver()[0] == "glibc" else None
