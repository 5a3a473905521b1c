"""Adapters of a session: loaded by name, each mapped once by each runtime that uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import (
    ArgumentError,
    FormatError,
    KronqError,
    NotFoundError,
    StrPath,
    check_type,
    listing,
)
from kronq.genai.adapter_cache import AdapterFile, AdapterSource, prepare_adapter
from kronq.genai.text_model import TextModel, import_genai
from kronq.onnx.base_prints import BasePrints, read_prints
from kronq.onnx.slots.pool_inputs import NO_POOL, pool_inputs, row_inputs
from kronq.onnx.slots.read_onnx_adapter import read_onnx_adapter, refuse_unfit
from kronq.onnx.slots.slot_spec import PACKED, SPEC, SlotSpec

if TYPE_CHECKING:
    import onnxruntime as ort
    import onnxruntime_genai as og


class LoadedAdapters(Mapping[str, AdapterFile]):
    """Adapters by name that this folder's graph can run with.

    onnxruntime and onnxruntime-genai each bring an ONNX Runtime of their own; both map the same
    file, each when it first runs with it. Threads may load, run and unload at the same time: a run
    keeps its adapter.

    Args:
        folder: A model folder as ``kronq export --form slots`` writes it.
        open_model: Opens the folder in onnxruntime-genai.
    """

    def __init__(self, folder: Path, open_model: Callable[[], TextModel]) -> None:
        self.folder = folder
        self._open_model = open_model
        self._files: dict[str, AdapterFile] = {}
        self._mapped: dict[str, ort.LoraAdapter] = {}
        self._records: dict[str, NDArray[np.uint8]] = {}
        self._in_genai: set[str] = set()
        self._lock = threading.RLock()

    def __getitem__(self, name: str) -> AdapterFile:
        check_type("adapter", name, str)
        if name not in self._files:
            loaded = listing(self._files) or "none"
            raise ArgumentError("no such adapter", found=repr(name), expected=f"one of: {loaded}")
        return self._files[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @cached_property
    def slots(self) -> SlotSpec:
        """The graph's slots.

        Raises:
            UnsupportedError: It has none.
        """
        return SlotSpec.read(self.folder)

    @cached_property
    def is_pool(self) -> bool:
        """Whether the rows of a batch name their adapters."""
        return (self.folder / SPEC).is_file() and self.slots.pool

    @property
    def _takes_records(self) -> bool:
        """Whether rows name records of a pool, and not adapters of stacks."""
        return self.is_pool and not self.slots.stacked

    @cached_property
    def _prints(self) -> BasePrints:
        return read_prints(self.folder)

    @cached_property
    def _genai(self) -> og.Adapters:
        return import_genai().Adapters(self._open_model().genai)

    def load(
        self,
        name: str,
        source: AdapterSource,
        *,
        basis: StrPath | None = None,
        other_base: bool = False,
    ) -> AdapterFile:
        """Loads an adapter under a name.

        Args:
            name: Name to run it by.
            source: Anything that ``kronq.load`` reads, or an ``.onnx_adapter``; or path → strength
                of adapters that are added up.
            basis: Where LoRA-XS's R alone finds its frozen bases.
            other_base: Takes an adapter that was calibrated or tested with another base, too.

        Raises:
            KronqError: The name is taken, or there is no readable adapter.
            MismatchError: The adapter does not belong to this graph.
            UnsupportedError: The graph takes no adapters.
        """
        check_type("name", name, str)
        self._refuse_loaded(name)
        prints = None if other_base else self._prints
        adapter = prepare_adapter(source, self.slots, basis=basis, prints=prints)
        if adapter.file == adapter.origin:
            refuse_unfit(adapter.file, self.slots)
        try:
            mapped = map_file(adapter.file)
        except (FormatError, NotFoundError):
            if adapter.file == adapter.origin:
                raise
            adapter.file.unlink(missing_ok=True)  # a damaged file in the cache
            adapter = prepare_adapter(source, self.slots, basis=basis, prints=prints)
            mapped = map_file(adapter.file)
        with self._lock:
            self._refuse_loaded(name)
            if self._takes_records:
                self._records[name] = read_onnx_adapter(adapter.file)[PACKED]
            self._files[name], self._mapped[name] = adapter, mapped
        return adapter

    def _refuse_loaded(self, name: str) -> None:
        if name in self._files:
            raise ArgumentError("an adapter of this name is loaded", found=name, hint="unload it")

    def unload(self, name: str) -> None:
        """Forgets an adapter; a run that has begun with it in another thread ends well.

        Raises:
            KronqError: No adapter has this name, or a text is being generated with it.
        """
        with self._lock:
            _ = self[name]
            if name in self._in_genai:
                try:
                    self._genai.unload(name)
                except RuntimeError as error:
                    raise KronqError("the adapter is in use", found=name) from error
                self._in_genai.discard(name)
            del self._files[name], self._mapped[name]
            self._records.pop(name, None)

    def run_options(self, name: str | None) -> ort.RunOptions | None:
        """Returns onnxruntime's options for a run with an adapter; None for the base alone.

        The options keep the adapter, which onnxruntime itself does not.
        """
        if name is None or self._takes_records:
            return None
        with self._lock:
            _ = self[name]
            adapter = self._mapped[name]
        options = _run_options_class()()
        options.adapter = adapter
        options.add_active_adapter(adapter)
        return options

    def row_inputs(self, name: str | None, rows: int) -> dict[str, NDArray[Any]]:
        """Returns the further inputs of a graph whose rows name their adapters, all the same one.

        Args:
            name: The adapter; None for the base alone.
            rows: Rows of the batch.
        """
        if not self.is_pool:
            return {}
        if self.slots.stacked:  # of one adapter, which ``run_options`` or ``activate`` gives
            return dict(row_inputs([None if name is None else (0, 0)] * rows))
        if name is None:
            return dict(pool_inputs(NO_POOL, [None] * rows))
        with self._lock:
            _ = self[name]
            return dict(pool_inputs(self._records[name], [(0, 0)] * rows))

    def activate(self, generator: og.Generator, name: str | None, rows: int = 1) -> object:
        """Makes a generator run with an adapter from its first token on.

        Args:
            generator: Before it has read anything.
            name: The adapter; None for the base alone.
            rows: Texts that it continues side by side.

        Returns:
            What has to be kept for as long as the generator.
        """
        inputs = self.row_inputs(name, rows)
        for key, array in inputs.items():
            generator.set_model_input(key, array)
        if name is None or self._takes_records:
            return inputs
        with self._lock:
            adapter = self[name]
            if name not in self._in_genai:
                self._genai.load(str(adapter.file.absolute()), name)
                self._in_genai.add(name)
            generator.set_active_adapter(self._genai, name)
        return inputs


@cache
def _run_options_class() -> Any:
    """Returns onnxruntime's RunOptions as a class of Python, whose objects take attributes."""
    import onnxruntime as ort

    return type("RunOptions", (ort.RunOptions,), {})


def map_file(file: Path) -> Any:
    """Maps an ``.onnx_adapter`` as onnxruntime's LoraAdapter.

    Raises:
        FormatError: The file has another format.
    """
    import onnxruntime as ort

    adapter = ort.LoraAdapter()
    try:
        adapter.Load(str(file.absolute()))
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise FormatError("not an .onnx_adapter file", path=file, found=str(error)) from None
    return adapter
