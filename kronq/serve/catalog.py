"""Names that a request may give: the base's and its adapters'."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from kronq.engine.row_adapters import RowAdapter, RowAdapters
from kronq.errors import KronqError, NotFoundError, OutputExistsError
from kronq.readers.peft_config import CONFIG
from kronq.serve.refusal import RefusedError, no_such_model


class Store(Protocol):
    """Where adapters are added and removed."""

    def add(self, name: str, source: Path, *, force: bool = False) -> object:
        """Adds an adapter; an existing one of this name is replaced with ``force`` alone."""

    def remove(self, name: str) -> None:
        """Removes an adapter."""


class Catalog:
    """The base and its adapters, as ``/v1/models`` lists them.

    Args:
        base: Name of the base.
        adapters: Where the engine finds adapters.
        store: Where adapters are added; None where there is no such place.
        folder: Folder whose adapters are added when they are first asked for.
        imported: Called for each adapter that was added from ``folder``.
    """

    def __init__(
        self,
        base: str,
        adapters: RowAdapters,
        store: Store | None = None,
        folder: Path | None = None,
        imported: Callable[[], None] = lambda: None,
    ) -> None:
        self.base = base
        self._adapters = adapters
        self._store = store
        self._folder = folder
        self._imported = imported
        self._imports: dict[str, asyncio.Task[None]] = {}
        self._created = int(time.time())

    def __len__(self) -> int:
        return sum(1 for _ in self._adapters)

    async def find(self, name: str) -> RowAdapter:
        """Returns the adapter of a name, which the caller releases.

        Raises:
            RefusedError: There is none, or it cannot be used.
        """
        try:
            return self._adapters.find(name)
        except NotFoundError:
            source = self._source(name)
            if source is None or self._store is None:
                raise no_such_model(name) from None
        except KronqError as error:
            raise _unusable(name, error) from None
        try:
            if name not in self._imports:
                self._imports[name] = asyncio.create_task(self._import(self._store, name, source))
            await asyncio.shield(self._imports[name])
            return self._adapters.find(name)
        except KronqError as error:
            raise _unusable(name, error) from None

    async def add(self, name: str, path: str, *, replace: bool) -> None:
        """Adds an adapter.

        Raises:
            RefusedError: The name is taken, or there is no adapter at the path.
        """
        if name == self.base:
            raise RefusedError(400, f"The name '{name}' is the base's.", param="lora_name")
        try:
            await asyncio.to_thread(self._needed_store().add, name, Path(path), force=replace)
        except OutputExistsError:
            message = f"The lora adapter '{name}' has already been loaded."
            raise RefusedError(400, message, param="lora_name") from None
        except NotFoundError:
            message = f"Loading lora {name} failed: No adapter found for {path}"
            raise RefusedError(404, message, param="lora_path") from None
        except KronqError as error:
            raise RefusedError(400, str(error), param="lora_path") from None

    async def remove(self, name: str) -> None:
        """Removes an adapter.

        Raises:
            RefusedError: There is none of this name.
        """
        try:
            await asyncio.to_thread(self._needed_store().remove, name)
        except NotFoundError:
            message = f"The lora adapter '{name}' cannot be found."
            raise RefusedError(404, message, param="lora_name") from None

    def models(self) -> Iterator[dict[str, Any]]:
        """Yields what ``/v1/models`` lists."""
        yield self._model(self.base, None)
        for name in self._adapters:
            yield self._model(name, self.base)

    def model(self, name: str) -> dict[str, Any]:
        """Returns one entry of ``/v1/models``.

        Raises:
            RefusedError: There is none of this name.
        """
        if name == self.base:
            return self._model(name, None)
        if name not in set(self._adapters):
            raise no_such_model(name)
        return self._model(name, self.base)

    async def _import(self, store: Store, name: str, source: Path) -> None:
        try:
            await asyncio.to_thread(store.add, name, source)
            self._imported()
        finally:
            del self._imports[name]

    def _source(self, name: str) -> Path | None:
        """Returns the adapter of the folder that a name stands for, if there is one."""
        parts = name.split("/")
        if self._folder is None or "\\" in name or "\0" in name:
            return None
        if any(part.startswith(".") or not part for part in parts):
            return None
        path = self._folder.joinpath(*parts)
        if (path / CONFIG).is_file():
            return path
        file = path.with_name(f"{path.name}.safetensors")
        return file if file.is_file() else None

    def _needed_store(self) -> Store:
        if self._store is None:
            raise RefusedError(400, "this server has no pool to which adapters could be added")
        return self._store

    def _model(self, name: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "kronq",
            "root": parent or name,
            "parent": parent,
        }


def _unusable(name: str, error: KronqError) -> RefusedError:
    return RefusedError(500, f"The adapter `{name}` cannot be used: {error.message}", param="model")
