"""Requests become jobs of the engine, or are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronq.engine.engine import Engine
from kronq.engine.job import Job, Listener
from kronq.errors import KronqError, StrPath
from kronq.genai.prompts import Prompt
from kronq.pool.entry import Entry
from kronq.pool.folder import make_pool
from kronq.pool.pool import Pool
from kronq.serve.answer import Answer
from kronq.serve.catalog import Catalog
from kronq.serve.fields import TextFields
from kronq.serve.metrics import Metrics
from kronq.serve.refusal import RefusedError
from kronq.serve.stepping import Stepping

_DEFAULT_TEMPERATURE = 1.0
_CHARACTERS = 128
"""Of a token at most, on average; a longer prompt is refused before it is split into tokens."""


@dataclass(frozen=True)
class ServerOptions:
    """Settings of a server.

    Attributes:
        name: Name of the base, which requests give for the base alone.
        queue: Texts that wait for a row at most.
        api_keys: Keys of which a request has to have one; none for no check.
        runtime_loading: Whether requests may add and remove adapters.
        hosts: Host names that a request may have asked for; ``*`` for any.
    """

    name: str
    queue: int = 64
    api_keys: Sequence[str] = ()
    runtime_loading: bool = False
    hosts: Sequence[str] = ("*",)


class Service:
    """What the server's paths work with.

    Args:
        engine: The engine; its steps are run by a thread of the service.
        catalog: Names of the base and of its adapters.
        options: Settings.
    """

    def __init__(self, engine: Engine, catalog: Catalog, options: ServerOptions) -> None:
        self.engine = engine
        self.catalog = catalog
        self.options = options
        self.metrics = Metrics(lambda: engine.counts, lambda: len(catalog))
        catalog.imported = self.metrics.count_import
        self.stepping = Stepping(engine)
        self.draining = False

    @property
    def ready(self) -> bool:
        return self.stepping.is_alive() and not self.draining

    async def start(
        self, fields: TextFields, prompts: Sequence[Prompt | list[int]], limit: int | None
    ) -> Answer:
        """Puts the texts of a request into the engine's queue.

        Args:
            fields: Its fields.
            prompts: Texts, tokens or conversations, each of which gets ``fields.n`` texts.
            limit: New tokens of each at most; None for as many as the context has room for.

        Raises:
            RefusedError: There is no such adapter, no room in the queue or in the context, or a
                field is wrong.
        """
        if not self.ready:
            raise RefusedError(503, "the server is stopping")
        adapter = await self._find(fields.model)
        answer = Answer(adapter, self.engine.adapters.release, stream=fields.stream)
        try:
            tokens = [self._encode(prompt, limit) for prompt in prompts]
            self._refuse_full(len(tokens) * fields.n)
            for ids in tokens:
                for copy in range(fields.n):
                    answer.add(self._submission(fields, ids, copy, adapter, limit))
        except KronqError as error:
            answer.cancel()
            raise RefusedError(400, str(error)) from None
        finally:
            answer.complete()
        return answer

    def count(self, answer: Answer) -> None:
        """Counts an answer that is complete."""
        self.metrics.count_request(200)
        for job in answer.jobs:
            timed = job.generation
            whole = timed.prefill_seconds + timed.decode_seconds
            self.metrics.count_text(timed.prefill_seconds, whole)

    async def _find(self, name: str) -> Entry | None:
        if name == self.options.name:
            return None
        return await self.catalog.find(name)

    def _submission(
        self,
        fields: TextFields,
        tokens: list[int],
        copy: int,
        adapter: Entry | None,
        limit: int | None,
    ) -> Callable[[Listener], Job]:
        return lambda listener: self.engine.submit(
            tokens,
            adapter=adapter,
            max_tokens=limit or self.engine.context - len(tokens),
            stop=fields.stops,
            listener=listener,
            **fields.sampling(copy, _DEFAULT_TEMPERATURE),
        )

    def _encode(self, prompt: Prompt | list[int], limit: int | None) -> list[int]:
        context, asked = self.engine.context, limit or 1
        if _characters(prompt) > _CHARACTERS * context:
            raise RefusedError(
                400,
                f"This model's maximum context length is {context} tokens, and the prompt has "
                f"{_characters(prompt):,} characters",
                code="context_length_exceeded",
            )
        tokens = self.engine.encode(prompt)
        if len(tokens) + asked > context:
            raise RefusedError(
                400,
                f"This model's maximum context length is {context} tokens. However, you requested "
                f"{len(tokens) + asked} tokens ({len(tokens)} in the prompt, {asked} in the "
                "completion). Please shorten either.",
                code="context_length_exceeded",
            )
        return tokens

    def _refuse_full(self, wanted: int) -> None:
        room = self.engine.rows + self.options.queue
        if wanted > room:
            raise RefusedError(400, f"{wanted} texts in a request; this server takes {room}")
        counts = self.engine.counts
        if counts.running + counts.waiting + wanted > room:
            raise RefusedError(429, "The queue is full; try again", code="rate_limit_exceeded")


def _characters(prompt: Prompt | list[int]) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(text) for part in prompt if isinstance(part, dict) for text in part.values())


def open_service(
    path: StrPath,
    options: ServerOptions,
    *,
    pool: StrPath | None = None,
    folder: StrPath | None = None,
    **batch: Any,
) -> Service:
    """Opens a model for a server.

    Args:
        path: The model folder.
        options: Settings of the server.
        pool: A pool of adapters, which is made if there is none.
        folder: Folder whose adapters are added to the pool when they are first asked for.
        batch: As ``Engine`` takes it.

    Raises:
        KronqError: The model or the pool cannot be opened.
    """
    if pool is not None and not Path(pool).exists():
        make_pool(Path(pool))
    opened = None if pool is None else Pool.open(pool)
    engine = Engine(path, pool=opened, **batch)
    source = None if folder is None else Path(folder)
    return Service(engine, Catalog(options.name, engine.adapters, opened, source), options)
