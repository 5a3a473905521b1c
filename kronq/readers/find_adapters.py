"""The adapters in a folder of adapters, and the files that make up one."""

from __future__ import annotations

from pathlib import Path

from kronq.errors import ArgumentError, FormatError
from kronq.model.layer_names import natural_key
from kronq.packed.writer import SUFFIX
from kronq.readers.peft_config import CONFIG, WEIGHTS


def is_folder_of_adapters(path: Path) -> bool:
    """Returns whether a path is a folder that is no adapter itself."""
    if not path.is_dir() or (path / WEIGHTS).exists():
        return False
    return not (path / CONFIG).exists() or any(path.glob(f"*{SUFFIX}"))


def find_adapters(folder: Path) -> list[Path]:
    """Finds the adapters in a folder: its safetensors files, and its folders with PEFT's config.

    Args:
        folder: It is searched itself, and no deeper.

    Raises:
        ArgumentError: It is one adapter.
        FormatError: It has none.
    """
    if not folder.is_dir() or (folder / WEIGHTS).exists():
        raise ArgumentError("one adapter, not a folder of adapters", path=folder)
    found = [
        path
        for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
        if not path.name.startswith(".")
        and ((path.suffix == SUFFIX and path.is_file()) or (path / CONFIG).is_file())
    ]
    if not found:
        expected = f"{SUFFIX} files, or PEFT folders"
        raise FormatError("no adapters in this folder", path=folder, expected=expected)
    return found


def adapter_files(path: Path) -> list[Path]:
    """Returns the files that an adapter's numbers are in.

    Raises:
        FormatError: A folder lacks one.
    """
    files = [path / CONFIG, path / WEIGHTS] if path.is_dir() else [path]
    if path.is_file() and (path.parent / CONFIG).is_file():  # PEFT's tensors in a file alone
        files.append(path.parent / CONFIG)
    for file in files:
        if not file.is_file():
            raise FormatError("no adapter here", path=path, expected=file.name)
    return files
