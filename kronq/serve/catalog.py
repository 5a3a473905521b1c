"""Names that a request may give: the base's and its adapters'."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kronq.engine.row_adapters import RowAdapters
from kronq.errors import KronqError, NotFoundError, OutputExistsError
from kronq.pool.entry import Entry
from kronq.pool.pool import Pool
from kronq.readers.peft_config import CONFIG
from kronq.serve.refusal import RefusedError, no_such_model


class Catalog:
    """The base and its adapters, as ``/v1/models`` lists them.

    Args:
        base: Name of the base.
        adapters: Where the engine finds adapters.
        pool: Where they lie and are added; None where there are none.
        folder: Folder whose adapters are added when they are first asked for.

    Attributes:
        imported: Called for each adapter that was added from ``folder``.
    """

    def __init__(
        self,
        base: str,
        adapters: RowAdapters,
        pool: Pool | None = None,
        folder: Path | None = None,
    ) -> None:
        self.base = base
        self._adapters = adapters
        self._pool = pool
        self._folder = folder
        self.imported: Callable[[], None] = lambda: None
        self._imports: dict[str, asyncio.Task[None]] = {}
        self._created = int(time.time())

    def __len__(self) -> int:
        return len(self._adapters)

    async def find(self, name: str) -> Entry:
        """Returns the adapter of a name, which the caller releases.

        Raises:
            RefusedError: There is none, or it cannot be used.
        """
        try:
            return self._adapters.find(name)
        except NotFoundError:
            source = self._source(name)
            if source is None or self._pool is None:
                raise no_such_model(name) from None
        except KronqError as error:
            raise _unusable(name, error) from None
        try:
            if name not in self._imports:
                self._imports[name] = asyncio.create_task(self._import(self._pool, name, source))
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
            await asyncio.to_thread(self._needed_pool().add, name, Path(path), force=replace)
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
            await asyncio.to_thread(self._needed_pool().remove, name)
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
        if name not in self._adapters:
            raise no_such_model(name)
        return self._model(name, self.base)

    async def _import(self, pool: Pool, name: str, source: Path) -> None:
        try:
            await asyncio.to_thread(pool.add, name, source)
            self.imported()
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
        file = path.with_name(f"{path.name}.safetensors")
        try:
            found = path if (path / CONFIG).is_file() else file if file.is_file() else None
            inside = found is None or _is_inside(found, self._folder)
        except (OSError, RuntimeError):  # a name that no file can have, or links in a circle
            return None
        return found if inside else None

    def _needed_pool(self) -> Pool:
        if self._pool is None:
            raise RefusedError(400, "this server has no pool to which adapters could be added")
        return self._pool

    def _model(self, name: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "kronq",
            "root": parent or name,
            "parent": parent,
        }


def _is_inside(path: Path, folder: Path) -> bool:
    """Tells whether an adapter's files lie in a folder, wherever links lead."""
    real = folder.resolve()
    if not path.resolve().is_relative_to(real):
        return False
    return all(file.resolve().is_relative_to(real) for file in path.rglob("*"))


def _unusable(name: str, error: KronqError) -> RefusedError:
    return RefusedError(500, f"The adapter `{name}` cannot be used: {error.message}", param="model")
