"""Builds kronq's wheel with its libraries for every platform: `make wheel`.

The C compiler of the package ziglang compiles for all of them on any one of them. Everything is
compiled twice, in folders and caches of different names, and has to be the same, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kronq.compiled.library import PROGRAM as LOOPS
from kronq.compiled.platforms import SHIPPED, library_name
from kronq.compiled.shipped import RECORD
from kronq.onnx.slots.kernel.build import PROGRAM as OPERATOR

ROOT = Path(__file__).parents[1]
LIBRARIES = Path("kronq", "compiled", "libraries")
PROGRAMS = (OPERATOR, LOOPS)
TARGETS = {
    "linux-x64": "x86_64-linux-gnu.2.28",
    "linux-arm64": "aarch64-linux-gnu.2.28",
    "osx-x64": "x86_64-macos.11.0",
    "osx-arm64": "aarch64-macos.11.0",
    "win-x64": "x86_64-windows-gnu",
    "win-arm64": "aarch64-windows-gnu",
}
MORE = ("-s", "-Wno-psabi")
PARTS = ("kronq", "pyproject.toml", "README.md", "LICENSE")
TIME = "1704067200"
"""Seconds since 1970 that the wheel's files are from, so that its bytes tell its contents alone."""


def compile_all(into: Path) -> dict[str, str]:
    """Compiles every platform's libraries from source, with a compiler's cache that is new.

    Args:
        into: Folder that is made for them.

    Returns:
        Library → SHA-256.
    """
    into.mkdir()
    hashes = {}
    with tempfile.TemporaryDirectory() as scratch:
        caches = {f"ZIG_{kind}_CACHE_DIR": scratch for kind in ("GLOBAL", "LOCAL")}
        for platform in SHIPPED:
            print(f"{TARGETS[platform]} …", file=sys.stderr, flush=True)
            for program in PROGRAMS:
                name = library_name(program.name, platform)
                zig = [sys.executable, "-m", "ziglang", "cc", "-target", TARGETS[platform]]
                command = [*zig, *program.flags, *MORE]
                if platform.startswith("osx"):  # by default the path of the output
                    command.append(f"-Wl,-install_name,@rpath/{name}")
                work = Path(scratch, name)
                subprocess.run(
                    [*command, *program.sources, "-o", str(work)],
                    cwd=program.folder,
                    env=_absolute_pythonpath() | caches,
                    check=True,
                )
                shutil.copyfile(work, into / name)  # without what else the linker puts beside it
                hashes[name] = hashlib.sha256((into / name).read_bytes()).hexdigest()
    return hashes


def build_wheel(folder: Path) -> None:
    """Writes the wheel from a copy of the source, which stays without libraries.

    Raises:
        SystemExit: A library differs from one compilation to the next.
    """
    with tempfile.TemporaryDirectory() as scratch:
        with ThreadPoolExecutor() as both:
            folders = [Path(scratch, name) for name in ("first", "second")]
            hashes, again = both.map(compile_all, folders)
        if different := [name for name in hashes if hashes[name] != again[name]]:
            raise SystemExit(f"compiled twice, not the same bytes: {', '.join(different)}")
        source = Path(scratch, "source")
        source.mkdir()
        for part in PARTS:
            _copy(ROOT / part, source / part)
        shutil.copytree(Path(scratch, "first"), source / LIBRARIES)
        lines = [f"{digest}  {name}\n" for name, digest in hashes.items()]
        (source / LIBRARIES / RECORD).write_text("".join(lines), newline="\n")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
        subprocess.run(
            [*pip, "--no-deps", "-w", str(folder), str(source)],
            env=os.environ | {"SOURCE_DATE_EPOCH": TIME},
            check=True,
        )
    print("".join(lines), end="")
    for wheel in sorted(folder.glob("*.whl")):
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        print(f"{digest}  {wheel.name}, {wheel.stat().st_size:,} bytes")


def _copy(source: Path, target: Path) -> None:
    """Copies a part of the source, with modes that are the same whatever the umask was."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _absolute_pythonpath() -> dict[str, str]:
    """Returns the environment for a command that runs in another folder."""
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in parts if p)}


if __name__ == "__main__":
    build_wheel(Path(sys.argv[1]))
