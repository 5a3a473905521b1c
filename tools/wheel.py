"""Builds kronq's wheel with the operator's library for every platform: `make wheel`.

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

from kronq.onnx.slots.kernel.build import PROGRAM
from kronq.onnx.slots.kernel.shipped import NAMES, RECORD

ROOT = Path(__file__).parents[1]
KERNEL = Path("kronq", "onnx", "slots", "kernel")
TARGETS = {
    "linux-x86_64": "x86_64-linux-gnu.2.28",
    "linux-aarch64": "aarch64-linux-gnu.2.28",
    "macosx-x86_64": "x86_64-macos.11.0",
    "macosx-arm64": "aarch64-macos.11.0",
    "win-amd64": "x86_64-windows-gnu",
    "win-arm64": "aarch64-windows-gnu",
}
MORE = ("-s", "-Wno-psabi")
PARTS = ("kronq", "pyproject.toml", "README.md", "LICENSE")


def compile_all(into: Path) -> dict[str, str]:
    """Compiles every platform's library from source, with a compiler's cache that is new.

    Args:
        into: Folder; gets ``PLATFORM/NAME``.

    Returns:
        ``PLATFORM/NAME`` → SHA-256.
    """
    hashes = {}
    with tempfile.TemporaryDirectory() as scratch:
        caches = {f"ZIG_{kind}_CACHE_DIR": scratch for kind in ("GLOBAL", "LOCAL")}
        for platform, target in TARGETS.items():
            name = NAMES[platform]
            work, library = Path(scratch, name), into / platform / name
            print(f"{target} …", file=sys.stderr, flush=True)
            zig = [sys.executable, "-m", "ziglang", "cc", "-target", target]
            command = [*zig, *PROGRAM.flags, *MORE]
            if platform.startswith("macosx"):  # by default the path of the output
                command.append(f"-Wl,-install_name,@rpath/{name}")
            subprocess.run(
                [*command, *PROGRAM.sources, "-o", str(work)],
                cwd=PROGRAM.folder,
                env=_absolute_pythonpath() | caches,
                check=True,
            )
            library.parent.mkdir(parents=True)
            shutil.copyfile(work, library)  # without what else the linker puts beside it
            hashes[f"{platform}/{name}"] = hashlib.sha256(library.read_bytes()).hexdigest()
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
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
            source.mkdir(exist_ok=True)
            copy(ROOT / part, source / part)
        shutil.copytree(Path(scratch, "first"), source / KERNEL / "libraries")
        lines = [f"{digest}  {name}\n" for name, digest in hashes.items()]
        (source / KERNEL / "libraries" / RECORD).write_text("".join(lines), newline="\n")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
        subprocess.run([*pip, "--no-deps", "-w", str(folder), str(source)], check=True)
    print("".join(lines), end="")


def _absolute_pythonpath() -> dict[str, str]:
    """Returns the environment for a command that runs in another folder."""
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in parts if p)}


if __name__ == "__main__":
    build_wheel(Path(sys.argv[1]))
