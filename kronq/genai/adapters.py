"""The adapters of a session: loaded by name, each mapped once by each runtime that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kronq.errors import (
    ArgumentError,
    FormatError,
    KronqError,
    MismatchError,
    NotFoundError,
    StrPath,
    listing,
)
from kronq.genai.generation import import_genai
from kronq.genai.prepared import Prepared, prepare
from kronq.onnx.slots.onnx_adapter import read_names
from kronq.onnx.slots.spec import Slots

if TYPE_CHECKING:
    import onnxruntime as ort
    import onnxruntime_genai as og


class Adapters(Mapping[str, Prepared]):
    """Name → an adapter that this folder's graph can run with.

    onnxruntime and onnxruntime-genai each bring an ONNX Runtime of their own; both map the same
    file, each when it first runs with it.

    Args:
        folder: What ``kronq export --form slots`` wrote.
        model: Opens the folder in onnxruntime-genai.
    """

    def __init__(self, folder: Path, model: Callable[[], og.Model]) -> None:
        self.folder = folder
        self._model = model
        self._prepared: dict[str, Prepared] = {}
        self._mapped: dict[str, ort.LoraAdapter] = {}
        self._in_genai: set[str] = set()

    def __getitem__(self, name: str) -> Prepared:
        if name not in self._prepared:
            loaded = listing(self._prepared) or "none"
            raise ArgumentError("no such adapter", found=repr(name), expected=f"one of: {loaded}")
        return self._prepared[name]

    def __contains__(self, name: object) -> bool:
        return name in self._prepared

    def __iter__(self) -> Iterator[str]:
        return iter(self._prepared)

    def __len__(self) -> int:
        return len(self._prepared)

    @cached_property
    def slots(self) -> Slots:
        """The graph's open inputs.

        Raises:
            UnsupportedError: It has none.
        """
        return Slots.read(self.folder)

    @cached_property
    def _genai(self) -> og.Adapters:
        return import_genai().Adapters(self._model())

    def load(self, name: str, path: StrPath) -> Prepared:
        """Makes an adapter ready under a name.

        Args:
            name: What ``adapter=`` calls it.
            path: Anything that ``kronq.load`` reads, or an ``.onnx_adapter``.

        Raises:
            KronqError: The name is taken, or nothing readable is there.
            MismatchError: The adapter does not belong to this graph.
            UnsupportedError: The graph takes no adapters.
        """
        if name in self._prepared:
            raise ArgumentError("an adapter of this name is loaded", found=name, hint="unload it")
        found = prepare(path, self.slots)
        if found.file == found.origin:
            check_names(found.file, self.slots)
        try:
            self._mapped[name] = map_file(found.file)
        except (FormatError, NotFoundError):
            if found.file == found.origin:
                raise
            found.file.unlink(missing_ok=True)  # a damaged file in the cache
            found = prepare(path, self.slots)
            self._mapped[name] = map_file(found.file)
        self._prepared[name] = found
        return found

    def unload(self, name: str) -> None:
        """Forgets an adapter.

        Raises:
            KronqError: There is none of this name, or a text is being generated with it.
        """
        _ = self[name]
        if name in self._in_genai:
            try:
                self._genai.unload(name)
            except RuntimeError as error:
                raise KronqError("the adapter is in use", found=name) from error
            self._in_genai.discard(name)
        del self._prepared[name], self._mapped[name]

    def options(self, name: str | None) -> ort.RunOptions | None:
        """What a run in onnxruntime is told; None for the base alone."""
        if name is None:
            return None
        import onnxruntime as ort

        _ = self[name]
        options = ort.RunOptions()
        options.add_active_adapter(self._mapped[name])
        return options

    def activate(self, generator: og.Generator, name: str | None) -> None:
        """Has a generator run with an adapter from its first token on."""
        if name is None:
            return
        found = self[name]
        if name not in self._in_genai:
            self._genai.load(str(found.file.absolute()), name)
            self._in_genai.add(name)
        generator.set_active_adapter(self._genai, name)


def map_file(file: Path) -> Any:
    """An ``.onnx_adapter`` as onnxruntime's LoraAdapter.

    Raises:
        FormatError: It is no such file.
    """
    import onnxruntime as ort

    adapter = ort.LoraAdapter()
    try:
        adapter.Load(str(file.absolute()))
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise FormatError("not an .onnx_adapter file", path=file, found=str(error)) from None
    return adapter


def check_names(file: Path, slots: Slots) -> None:
    """Refuses an ``.onnx_adapter`` of another graph before a run would.

    Raises:
        MismatchError: It has inputs that the graph has not.
    """
    strange = read_names(file) - slots.inputs
    if strange:
        raise MismatchError(
            "the .onnx_adapter belongs to another model",
            path=file,
            found=f"{len(strange)} inputs that this one does not have, as {min(strange)}",
            hint="{write_onnx_adapter} makes one for this model",
        )
