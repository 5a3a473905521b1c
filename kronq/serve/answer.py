"""The texts of one request, from the thread of the engine to the loop of the server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

from kronq.engine.job import Job, Listener
from kronq.pool.entry import Entry


class Answer:
    """Texts of one request as they come; made and read in the server's loop.

    Args:
        adapter: What all of them are written with, released when the last one is done.
        release: Releases it.
        stream: Whether pieces are wanted, and not whole texts alone.

    Attributes:
        jobs: The engine's jobs, one a text.
        adapter: What all of them are written with; None for the base alone.
    """

    def __init__(
        self,
        adapter: Entry | None,
        release: Callable[[Entry], None],
        *,
        stream: bool,
    ) -> None:
        self.jobs: list[Job] = []
        self.adapter = adapter
        self._release = release
        self._open = 1
        self._counting = threading.Lock()
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, str | Job]] = asyncio.Queue()

    def add(self, submit: Callable[[Listener], Job]) -> None:
        """Adds a text.

        Args:
            submit: Puts its job into the engine's queue, with what the engine tells about it.
        """
        index = len(self.jobs)

        def tell(news: str | Job) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, news))

        def done(job: Job) -> None:
            tell(job)
            self._close()

        with self._counting:
            self._open += 1
        try:
            self.jobs.append(submit(Listener(tell, done) if self._stream else Listener(done=done)))
        except BaseException:
            self._close()
            raise

    def complete(self) -> None:
        """Says that no more jobs come."""
        self._close()

    def _close(self) -> None:
        with self._counting:
            self._open -= 1
            last = self._open == 0
        if last and self.adapter is not None:
            self._release(self.adapter)

    async def news(self) -> AsyncIterator[tuple[int, str | Job]]:
        """Yields the number of a text with a piece of it, or with its job when it is done."""
        left = len(self.jobs)
        while left:
            index, news = await self._queue.get()
            left -= isinstance(news, Job)
            yield index, news

    async def wait(self) -> None:
        """Waits for all texts."""
        async for _ in self.news():
            pass

    def cancel(self) -> None:
        """Frees the rows of texts that are not done."""
        for job in self.jobs:
            if not job.done:
                job.cancel()
