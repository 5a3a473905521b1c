"""What a study makes, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kronq.quantization.configs import Config
from kronq.study.config import Study
from kronq.study.sources import Base, TaskExamples, TextSource

if TYPE_CHECKING:
    from kronq.torch.training.settings import TrainingSettings


IN_THE_LOOP = "in the loop"
"""Method of the file that an adapter was trained as, of a recipe with a ``target``."""


@dataclass(frozen=True)
class FileStep:
    """A file made of a trained adapter.

    Attributes:
        key: Its digest.
        method: Name of the method.
        config: Its configuration; None for a baseline, whose ``setting`` is its name, and for
            ``IN_THE_LOOP``.
        setting: In words.
        bits: As asked for; None for a size.
        size: Bytes as asked for.
    """

    key: str
    method: str
    config: Config | None
    setting: str
    bits: float | None = None
    size: int | str | None = None


@dataclass(frozen=True)
class ScoreStep:
    """Scores of the base (``source`` is ``base``), of an adapter as trained, or of a file.

    Attributes:
        key: Its digest.
        source: ``base``, ``trained``, or the key of a file.
        task: Task that is scored.
        choices: Whether all choices are.
    """

    key: str
    source: str
    task: str
    choices: bool


@dataclass(frozen=True)
class TextStep:
    """Distributions on a text, compared with the base's and with those of the adapter as trained.

    Attributes:
        key: Its digest.
        source: As of ``ScoreStep``.
        text: Label of the text.
    """

    key: str
    source: str
    text: str


@dataclass(frozen=True)
class Start:
    """The adapter that a training goes on from.

    Attributes:
        task: That it was trained on.
        key: Of the trained adapter, or of the file.
        setting: Of the file, in words; empty for the adapter as trained.
    """

    task: str
    key: str
    setting: str = ""


@dataclass(frozen=True)
class Chain:
    """One trained adapter, the files made of it, and all scores of these; or the base's scores.

    Attributes:
        family: Label of the family; empty for the base.
        task: Task that it is trained on.
        seed: Of the training.
        key: Digest of the training.
        settings: Of the training; None for the base.
        files: The files.
        scores: The scores.
        texts: Comparisons on texts.
        start: What the training goes on from; None for new values.
    """

    family: str
    task: str
    seed: int
    key: str
    settings: TrainingSettings | None
    files: tuple[FileStep, ...]
    scores: tuple[ScoreStep, ...]
    texts: tuple[TextStep, ...] = ()
    start: Start | None = None

    @property
    def trained_on(self) -> str:
        """The task, behind the one that was learned before."""
        if self.start is None:
            return self.task
        between = f" ({self.start.setting})" if self.start.setting else ""
        return f"{self.start.task}{between}, then {self.task}"

    @property
    def results(self) -> tuple[ScoreStep | TextStep, ...]:
        """All scores and comparisons on texts."""
        return (*self.scores, *self.texts)

    @property
    def name(self) -> str:
        return f"{self.family}, {self.trained_on}, seed {self.seed}" if self.family else "the base"


@dataclass(frozen=True)
class Plan:
    """All chains of a study.

    Attributes:
        study: The study.
        base: Its base.
        tasks: Label → examples.
        chains: The base, then every adapter; those that go on from others last.
        texts: Label → text.
    """

    study: Study
    base: Base
    tasks: Mapping[str, TaskExamples]
    chains: tuple[Chain, ...]
    texts: Mapping[str, TextSource] = field(default_factory=dict)
