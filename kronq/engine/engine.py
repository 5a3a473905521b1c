"""An engine: texts that join and leave one batch, each row with its own adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from kronq.engine.batch import Batch, EngineCounts
from kronq.engine.batch_decoder import BatchDecoder
from kronq.engine.find_adapters import find_adapters
from kronq.engine.job import Job, Listener
from kronq.engine.sampler import complete_sampling
from kronq.errors import ArgumentError, KronqError, StrPath, check_type
from kronq.genai.generation import Generation
from kronq.genai.prompts import Prompt, encode_prompt
from kronq.genai.sampling import GenerationSettings, Sampling, SamplingOptions
from kronq.genai.text_model import load_tokenizer
from kronq.onnx.model_files import find_model
from kronq.pool.entry import Entry
from kronq.pool.pool import Pool

Stop = str | Sequence[str]


class Engine:
    """Language model that writes several texts at a time, each with its own adapter.

    Texts join the batch and leave it at any token (continuous batching). Prompts are read one at a
    time, in chunks, between the runs of the batch, so that a long one does not hold up the others.
    A text is what it would be alone, but for the last bits of its logits.

    Runs on the CPU. ``submit`` and ``Job.cancel`` may be called by any thread, ``step`` by one.

    Args:
        path: A model folder, as ``kronq base`` and ``kronq export`` write it.
        pool: A pool of adapters, or its folder; the model then has to be of the form pool, or of
            the form slots with compiled operators. None for the base alone.
        rows: Texts in the batch at most.
        context: Tokens of prompt and text together at most; never more than the model's own.
        chunk: Tokens of a prompt that are read between two runs of the batch.
        threads: Threads within one operator; None leaves it to ONNX Runtime (one a core).
        other_base: Takes adapters that were calibrated or tested with another base, too.

    Raises:
        UnsupportedError: The model does not batch rows of different lengths, or has no slots for
            the adapters of a pool.

    Example:
        >>> engine = kronq.Engine("app/", pool="pool/", rows=8)
        >>> texts = engine.generate(["One is", "Two is"], adapters=["arc", None], max_tokens=8)
        >>> print([text.text for text in texts])
    """

    def __init__(
        self,
        path: StrPath,
        *,
        pool: Pool | StrPath | None = None,
        rows: int = 8,
        context: int = 4096,
        chunk: int = 64,
        threads: int | None = None,
        other_base: bool = False,
    ) -> None:
        for name, value in (("rows", rows), ("context", context), ("chunk", chunk)):
            check_type(name, value, int)
            if value < 1:
                raise ArgumentError(f"{name} has to be positive", found=value)
        self.files = find_model(path)
        self.tokenizer = load_tokenizer(self.files)
        self.rows = rows
        self.context = min(context, self.files.model_count("context_length"))
        self.adapters = find_adapters(self.files.folder, pool, rows, other_base=other_base)
        by_row = bool(self.adapters.inputs([None]))
        decoder = BatchDecoder(self.files, rows, self.context, threads, pool=by_row)
        self._batch = Batch(decoder, self.adapters, rows, self.context, chunk)

    @property
    def counts(self) -> EngineCounts:
        """What is to do and was done."""
        return self._batch.counts

    def encode(self, prompt: Prompt | Sequence[int], *, chat: bool = False) -> list[int]:
        """Returns a prompt's tokens, and tokens as they are.

        Raises:
            UnsupportedError: The folder has no chat template.
            KronqError: The prompt is empty, or has a token that the model lacks.
        """
        if isinstance(prompt, str) or not all(isinstance(token, int) for token in prompt):
            return encode_prompt(self.tokenizer, prompt, chat)  # type: ignore[arg-type]
        size = self.files.model_count("vocab_size")
        wrong = [token for token in prompt if not 0 <= token < size]  # type: ignore[operator]
        if wrong or not prompt:
            raise ArgumentError(
                "not tokens of this model",
                found=wrong[0] if wrong else "none",
                expected=f"0 to {size - 1}",
            )
        return [int(token) for token in prompt]  # type: ignore[arg-type]

    def submit(
        self,
        prompt: Prompt | Sequence[int],
        *,
        adapter: str | Entry | None = None,
        max_tokens: int = 128,
        stop: Stop = (),
        chat: bool = False,
        listener: Listener | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Job:
        """Puts a text into the queue.

        The adapter is looked up here: the text is written with what the name stands for now.

        Args:
            prompt: A text, the messages of a conversation, or tokens.
            adapter: Name of an adapter; None for the base alone. Or what ``adapters.find`` has
                returned, which the caller releases when the text is done.
            max_tokens: New tokens at most.
            stop: The text ends before any of these strings.
            chat: Whether a text is put into the folder's chat template.
            listener: What is told of the text as it comes.
            sampling: As ``Session.generate`` takes it.

        Raises:
            KronqError: A setting is out of range, no adapter has this name, or the prompt fills
                the context.
        """
        stops = [stop] if isinstance(stop, str) else list(stop)
        settings = GenerationSettings(
            max_tokens, complete_sampling(Sampling(**sampling), self.files), stops
        )
        tokens = self.encode(prompt, chat=chat)
        if len(tokens) >= self.context:
            raise ArgumentError(
                "the prompt fills the context",
                found=f"{len(tokens)} tokens",
                expected=f"under {self.context}",
            )
        listener = listener or Listener()
        if isinstance(adapter, str):
            adapter = self.adapters.find(adapter)
            listener = self._releasing(adapter, listener)
        job = Job(tokens, adapter, settings, self.tokenizer, listener)
        self._batch.put(job)
        return job

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        adapters: Sequence[str | None] | None = None,
        max_tokens: int = 128,
        stop: Stop = (),
        chat: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> list[Generation]:
        """Writes a text for each prompt, each with its adapter, and returns them all.

        Args:
            prompts: Any number; those beyond the rows wait for a row.
            adapters: A name for each prompt, None for the base alone.
            max_tokens: New tokens of each at most.
            stop: A text ends before any of these strings.
            chat: Whether texts are put into the folder's chat template.
            sampling: As ``Session.generate`` takes it.

        Raises:
            KronqError: As ``submit`` raises it, or the first error of a row.
        """
        names = [None] * len(prompts) if adapters is None else list(adapters)
        if len(names) != len(prompts):
            raise ArgumentError(
                "an adapter for each prompt", found=len(names), expected=len(prompts)
            )
        jobs = [
            self.submit(p, adapter=a, max_tokens=max_tokens, stop=stop, chat=chat, **sampling)
            for p, a in zip(prompts, names, strict=True)
        ]
        while not all(job.done for job in jobs):
            self.step()
        return [job.generation for job in jobs]

    def wait(self, timeout: float) -> bool:
        """Waits until there is something to do; returns whether there is."""
        return self._batch.wait(timeout)

    def step(self) -> bool:
        """Reads a chunk of a prompt and a token of every row; returns whether more is to do."""
        return self._batch.step()

    def end_all(self, error: KronqError) -> None:
        """Ends all texts with an error, those that come later too; between two steps."""
        self._batch.end_all(error)

    def _releasing(self, adapter: Entry, listener: Listener) -> Listener:
        def done(job: Job) -> None:
            self.adapters.release(adapter)
            listener.done(job)

        return Listener(listener.text, done)
