"""The batch of an engine: which job has which row, and one run after another."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from kronq.engine.batch_decoder import BatchDecoder
from kronq.engine.job import Job
from kronq.engine.row_adapters import RowAdapters
from kronq.errors import KronqError


@dataclass(frozen=True)
class EngineCounts:
    """What an engine has to do and has done.

    Attributes:
        running: Texts in the batch, the one whose prompt is read counted.
        waiting: Texts that wait for a row.
        runs: Runs of the model over the batch.
        prompt_tokens: Tokens of prompts read.
        new_tokens: Tokens generated.
    """

    running: int
    waiting: int
    runs: int
    prompt_tokens: int
    new_tokens: int


class Batch:
    """Jobs in rows. ``put`` and ``wait`` may be called by any thread, ``step`` by one.

    Rows 0 to n − 1 of the KV cache are those of the n jobs that write, row n is that of the job
    that reads its prompt: every run takes neighbouring rows. A job that leaves is replaced by the
    last one, whose keys and values are copied.

    Args:
        decoder: The model.
        adapters: Where inputs of rows come from.
        rows: Rows of the decoder's KV cache.
        context: Tokens that a row has room for.
        chunk: Tokens of a prompt that are read between two runs of the batch.
    """

    def __init__(
        self, decoder: BatchDecoder, adapters: RowAdapters, rows: int, context: int, chunk: int
    ) -> None:
        self._decoder = decoder
        self._adapters = adapters
        self._rows = rows
        self._context = context
        self._chunk = chunk
        self._waiting: deque[Job] = deque()
        self._writing: list[Job] = []
        self._reading: Job | None = None
        self._ended: KronqError | None = None
        self._work = threading.Condition()
        self._runs = self._prompt_tokens = self._new_tokens = 0

    @property
    def counts(self) -> EngineCounts:
        running = len(self._writing) + (self._reading is not None)
        waiting = len(self._waiting)
        return EngineCounts(running, waiting, self._runs, self._prompt_tokens, self._new_tokens)

    def put(self, job: Job) -> None:
        """Puts a job at the end of the queue."""
        with self._work:
            if self._ended is None:
                self._waiting.append(job)
                self._work.notify_all()
                return
        job.finish(self._ended)

    def wait(self, timeout: float) -> bool:
        """Waits until there is something to do; returns whether there is."""
        with self._work:
            return self._work.wait_for(self._has_work, timeout)

    def step(self) -> bool:
        """Reads a chunk of a prompt and a token of every row; returns whether more is to do."""
        self._drop_cancelled()
        self._read_chunk()
        self._decode()
        return self._has_work()

    def end_all(self, error: KronqError) -> None:
        """Ends all jobs with an error, those that come later too."""
        with self._work:
            self._ended = error
            jobs = [*self._waiting, *self._writing]
            self._waiting.clear()
        jobs += [] if self._reading is None else [self._reading]
        self._writing, self._reading = [], None
        for job in jobs:
            job.finish(error)

    def _has_work(self) -> bool:
        return bool(self._waiting or self._writing or self._reading)

    def _drop_cancelled(self) -> None:
        with self._work:
            dropped = [job for job in self._waiting if job.cancelled]
            for job in dropped:
                self._waiting.remove(job)
        for job in dropped:
            job.finish()
        if self._reading is not None and self._reading.cancelled:
            self._reading.finish()
            self._reading = None
        for row in reversed(range(len(self._writing))):
            if self._writing[row].cancelled:
                self._leave(row)

    def _read_chunk(self) -> None:
        """Reads a chunk of a prompt; with the last one, its job joins the batch."""
        if self._reading is None and len(self._writing) < self._rows:
            with self._work:
                self._reading = self._waiting.popleft() if self._waiting else None
        job = self._reading
        if job is None:
            return
        part = job.tokens[job.read : job.read + self._chunk]
        try:
            given = self._adapters.inputs([job.adapter])
            logits = self._decoder.read(len(self._writing), part, job.read, given)
            job.read += len(part)
            self._prompt_tokens += len(part)
            if job.read < len(job.tokens):
                return
            ended = self._add(job, logits)
        except KronqError as error:
            self._reading = None
            job.finish(error)
            return
        self._reading = None
        if ended:
            job.finish()
        else:
            self._writing.append(job)

    def _decode(self) -> None:
        """Runs the batch once; rows that end leave it."""
        if not self._writing:
            return
        tokens = [job.last_token for job in self._writing]
        lengths = [job.read + 1 for job in self._writing]
        adapters = [job.adapter for job in self._writing]
        try:
            logits = self._decoder.decode(tokens, lengths, self._adapters.inputs(adapters))
            rows: list[np.ndarray | KronqError] = list(logits)
        except KronqError:  # of one row, which must not end the others
            rows = [self._decode_alone(row) for row in range(len(self._writing))]
        self._runs += 1
        for row in reversed(range(len(rows))):
            self._take(row, rows[row])

    def _decode_alone(self, row: int) -> np.ndarray | KronqError:
        job = self._writing[row]
        try:
            given = self._adapters.inputs([job.adapter])
            found = self._decoder.decode_from(row, [job.last_token], [job.read + 1], given)
        except KronqError as error:
            return error
        logits: np.ndarray = found[0]
        return logits

    def _take(self, row: int, logits: np.ndarray | KronqError) -> None:
        job = self._writing[row]
        if isinstance(logits, KronqError):
            self._leave(row, logits)
            return
        job.read += 1
        try:
            if self._add(job, logits):
                self._leave(row)
        except KronqError as error:
            self._leave(row, error)

    def _add(self, job: Job, logits: np.ndarray) -> bool:
        self._new_tokens += 1
        return job.add(logits, self._context)

    def _leave(self, row: int, error: KronqError | None = None) -> None:
        """Ends a row; the last one takes its place, and the prompt that is read the last one's."""
        job, last = self._writing[row], len(self._writing) - 1
        if row != last:
            self._decoder.cache.move(last, row, self._writing[last].read)
            self._writing[row] = self._writing[last]
        if self._reading is not None:
            self._decoder.cache.move(last + 1, last, self._reading.read)
        self._writing.pop()
        job.finish(error)
