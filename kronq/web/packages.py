"""The page's packages from the npm registry, installed once into kronq's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from kronq.errors import MissingDependencyError
from kronq.io.cache import cache_folder, check_private, digest_files, make_private
from kronq.io.unfinished import scratch_folder

PAGE = Path(__file__).parent / "page"
_LOCK = ("package.json", "package-lock.json")
_USED = (
    "onnxruntime-web/dist/ort.wasm.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "@huggingface/tokenizers/dist/tokenizers.min.mjs",
    "flatbuffers/mjs/*.js",
)


def find_packages(*, install: bool = False) -> Path:
    """Returns the folder ``node_modules`` with onnxruntime-web, its tokenizer and FlatBuffers.

    Args:
        install: Whether npm may fetch them from its registry, where they are not in the cache.

    Raises:
        MissingDependencyError: They are not there, and may not or cannot be installed.
        UnsupportedError: Others can write the folder or a file of it.
    """
    folder = cache_folder("web") / digest_files([PAGE / name for name in _LOCK])
    modules = folder / "node_modules"
    if modules.is_dir():
        return _checked(modules)
    if not install:
        raise MissingDependencyError(
            "the page needs onnxruntime-web, which is not in kronq's cache",
            expected=f"the versions of {_LOCK[1]}",
            hint="{install} lets npm fetch it once",
        )
    make_private(folder.parent)
    with scratch_folder("install", folder.parent) as scratch:
        work = scratch / folder.name
        work.mkdir(mode=0o700)
        _install(work)
        try:
            work.rename(folder)
        except OSError:
            if not modules.is_dir():
                raise
    return _checked(modules)


def _checked(modules: Path) -> Path:
    """Refuses packages that somebody other than the user could have written: pages run them."""
    folders = {modules.parent.parent, modules.parent, modules}
    for file in _used_files(modules):
        inner = len(file.relative_to(modules).parents) - 1
        folders |= {file, *file.parents[:inner]}
    check_private(*sorted(folders))
    return modules


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            "the page's packages are installed by npm, which is not there", hint="install Node.js"
        )
    for name in _LOCK:
        shutil.copyfile(PAGE / name, folder / name)
    done = subprocess.run(  # noqa: S603 - the versions and digests of package-lock.json
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_UPDATE_NOTIFIER": "1"},
        umask=0o077,
    )
    if done.returncode:
        raise MissingDependencyError(
            "npm could not install the page's packages",
            found=(done.stderr.strip().splitlines() or ["no message"])[-1][:200],
        )


def copy_packages(modules: Path, target: Path) -> None:
    """Copies the files that the page loads, of 100 MB the 15 that a browser needs."""
    for file in _used_files(modules):
        copy = target / file.relative_to(modules)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _used_files(modules: Path) -> list[Path]:
    return [file for pattern in _USED for file in sorted(modules.glob(pattern))]
