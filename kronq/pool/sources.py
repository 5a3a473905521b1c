"""What is to be added to a pool: adapters, folders of adapters and patterns, each with a name."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kronq.errors import ArgumentError, NotFoundError, listing
from kronq.io.hub import is_hub_path
from kronq.io.input_path import check_input
from kronq.pool.entry import check_name
from kronq.readers.find_adapters import find_adapters, is_folder_of_adapters


def find_sources(given: Sequence[tuple[str | None, str]]) -> dict[str, str]:
    """Returns name → path of every adapter.

    Args:
        given: Names, or None for that of the file or folder, and paths: an adapter, a folder of
            adapters, a pattern with ``*``, ``?`` or ``[…]``, or ``hf://…``.

    Raises:
        NotFoundError: Nothing is there.
        ArgumentError: Two adapters have one name, a name is not one for a pool, or a name is given
            for several.
    """
    found: dict[str, str] = {}
    twice = set()
    for given_name, path in given:
        paths = [*_paths(path)]
        if given_name is not None and len(paths) > 1:
            raise ArgumentError("one name for several adapters", path=path, found=given_name)
        for each in paths:
            name = check_name(name_of(each) if given_name is None else given_name)
            if found.get(name, each) != each:
                twice.add(name)
            found[name] = each
    if twice:
        raise ArgumentError(
            "several adapters of one name", found=listing(twice), hint="NAME=PATH names one"
        )
    return found


def name_of(path: str) -> str:
    """Returns the name that an adapter has in a pool if no other is given."""
    if is_hub_path(path):
        return path.removeprefix("hf://").rstrip("/").partition("@")[0]
    whole = Path(path).resolve()
    if whole.is_dir():
        return whole.name
    return whole.parent.name if whole.stem == "adapter_model" else whole.stem


def _paths(path: str) -> Iterator[str]:
    """Yields the adapters that a path stands for."""
    if is_hub_path(path) or Path(path).exists():
        check_input(path)
        yield from map(str, _inside(path))
        return
    matching = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else None  # noqa: PTH207
    if matching is None:
        check_input(path)
    elif not matching:
        raise NotFoundError("nothing matches this pattern", path=path)
    for each in matching or ():
        yield from map(str, _inside(each))


def _inside(path: str) -> Iterable[Path | str]:
    if is_hub_path(path) or not is_folder_of_adapters(Path(path)):
        return [path]
    return find_adapters(Path(path))
