"""``python -m benchmarks.soak``: random joins, leaves, adds, replaces and removes under one engine.

Every text is compared with what onnxruntime-genai writes with that adapter alone, in the slots form
of the same model: another graph, another operator, one row. A text is that of the adapter which its
name stood for when it was asked, whatever has become of the name since.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kronq import Adapter, Engine, Pool, Session
from kronq.engine.job import Job
from kronq.errors import NotFoundError
from kronq.pool.compaction import compact
from kronq.pool.folder import make_pool

PROMPTS = ["abc", "The quick brown fox", "x", "One is", "How are you?"]
LONGEST = 10
"""Tokens of a text at most."""
NAMES = 12
"""Names in the pool at most."""


@dataclass
class Told:
    """What a soak did.

    Attributes:
        steps: Steps of the engine.
        answers: Texts that were written to the end and compared.
        wrong: Those that are not what the adapter alone writes.
        cancelled: Texts that were cancelled, whose tokens so far were compared.
        refused: Requests for a name that was removed, all refused.
        added: Adapters added by a new name.
        replaced: Adapters replaced under their name.
        removed: Adapters removed.
        compacted: Times that the pool's file was replaced by another.
        most: Texts in one batch at most.
    """

    steps: int = 0
    answers: int = 0
    wrong: int = 0
    cancelled: int = 0
    refused: int = 0
    added: int = 0
    replaced: int = 0
    removed: int = 0
    compacted: int = 0
    most: int = 0


class Soak:
    """One engine, one pool, and what every text has to be.

    Args:
        app: A model with compiled slots.
        folder: A new folder for the pool.
        variants: Adapters that names are given.
        seed: Of all choices.
    """

    def __init__(
        self, app: Path, folder: Path, variants: Mapping[str, Path | Adapter], seed: int
    ) -> None:
        alone = Session(app, variants, device="cpu", threads=1)
        self._right = {
            (variant, prompt): alone.generate(prompt, adapter=variant, max_tokens=LONGEST).tokens
            for variant in (None, *variants)
            for prompt in PROMPTS
        }
        make_pool(folder)
        self._pool = Pool.open(folder)
        self._variants = dict(variants)
        self._random = np.random.default_rng(seed)
        self._engine = Engine(app, pool=self._pool, rows=6, chunk=5, threads=1)
        self._names: dict[str, str] = {}
        self._jobs: list[tuple[Job, str | None, str, int]] = []
        self._made = 0
        self.told = Told()

    def run(self, steps: int, progress: Callable[[int], None]) -> Told:
        while self.told.steps < steps:
            self._change()
            self._ask()
            self._step()
            if self.told.steps % 1000 == 0:
                progress(self.told.steps)
        for job, *_ in self._jobs:
            job.cancel()
        self._step()
        return self.told

    def _change(self) -> None:
        """Adds, replaces or removes an adapter now and then, or replaces the pool's file."""
        chance, told = self._random.random(), self.told
        if chance < 0.03 and len(self._names) < NAMES:
            self._made += 1
            self._put(f"adapter-{self._made}")
            told.added += 1
        elif chance < 0.06 and self._names:
            self._put(self._any(self._names))
            told.replaced += 1
        elif chance < 0.08 and self._names:
            name = self._any(self._names)
            self._pool.remove(name)
            del self._names[name]
            told.removed += 1
            told.refused += self._is_refused(name)
        elif chance < 0.083:
            compact(self._pool.path)
            told.compacted += 1

    def _put(self, name: str) -> None:
        variant = self._any(self._variants)
        self._pool.add(name, self._variants[variant], force=True)
        self._names[name] = variant

    def _is_refused(self, name: str) -> bool:
        try:
            self._engine.submit("abc", adapter=name)
        except NotFoundError:
            return True
        self.told.wrong += 1
        return False

    def _ask(self) -> None:
        if self._random.random() < 0.8 and self._engine.counts.waiting < 3:
            name = self._any([None, *self._names] if self._random.random() < 0.2 else self._names)
            prompt, length = self._any(PROMPTS), int(self._random.integers(1, LONGEST + 1))
            job = self._engine.submit(prompt, adapter=name, max_tokens=length)
            self._jobs.append((job, self._names.get(name), prompt, length))
        if self._jobs and self._random.random() < 0.03:
            self._jobs[self._random.integers(len(self._jobs))][0].cancel()

    def _step(self) -> None:
        self._engine.step()
        self.told.steps += 1
        self.told.most = max(self.told.most, self._engine.counts.running)
        left = []
        for job, variant, prompt, length in self._jobs:
            if not job.done:
                left.append((job, variant, prompt, length))
                continue
            found, right = job.generation.tokens, self._right[variant, prompt][:length]
            self.told.cancelled += job.cancelled
            self.told.answers += not job.cancelled
            self.told.wrong += found != (right[: len(found)] if job.cancelled else right)
        self._jobs = left

    def _any(self, things: Iterable[Any]) -> Any:
        several = list(things)
        return several[self._random.integers(len(several))] if several else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("app", type=Path, help="a model with compiled slots")
    parser.add_argument("adapters", type=Path, nargs="+", help="adapters for it")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    variants = {f"{path.stem}-{i}": path for i, path in enumerate(args.adapters)}
    with tempfile.TemporaryDirectory() as scratch:
        soaked = Soak(args.app, Path(scratch, "pool"), variants, args.seed)
        told = soaked.run(args.steps, lambda done: print(f"{done:,} steps", flush=True))
    print(json.dumps(asdict(told)))
    raise SystemExit(told.wrong > 0)


if __name__ == "__main__":
    main()
