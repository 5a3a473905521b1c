"""The steps of a study, each with a key that says everything that its result depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kronq import limits
from kronq.io.cache import digest
from kronq.planning.families import AdapterShape
from kronq.quantization.config_names import config_for
from kronq.quantization.configs import Compact, Config, Float16, Native, Tuned
from kronq.study.config import Family, Method, Study
from kronq.study.sources import Base, TaskExamples

if TYPE_CHECKING:
    from kronq.torch.training.settings import TrainingSettings

MEANING = "1"
"""Part of every key: another number, and all of a study is made anew."""


@dataclass(frozen=True)
class FileStep:
    """A file made of a trained adapter.

    Attributes:
        key: Its digest.
        method: Name of the method.
        config: Its configuration; None for a baseline, whose ``setting`` is its name.
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
    """

    family: str
    task: str
    seed: int
    key: str
    settings: TrainingSettings | None
    files: tuple[FileStep, ...]
    scores: tuple[ScoreStep, ...]

    @property
    def name(self) -> str:
        return f"{self.family}, {self.task}, seed {self.seed}" if self.family else "the base"


@dataclass(frozen=True)
class Plan:
    """All chains of a study.

    Attributes:
        study: The study.
        base: Its base.
        tasks: Label → examples.
        chains: The base, then every adapter.
    """

    study: Study
    base: Base
    tasks: Mapping[str, TaskExamples]
    chains: tuple[Chain, ...]


def make_plan(
    study: Study, base: Base, tasks: Mapping[str, TaskExamples], baselines: tuple[str, ...] = ()
) -> Plan:
    """Plans a study.

    Args:
        study: The study.
        base: Its base.
        tasks: Label → examples.
        baselines: Names of the baselines that are installed.

    Raises:
        ArgumentError: A family, recipe or method has values that do not do.
    """
    limits.CHAINS.check(len(study.families) * len(study.tasks) * len(study.seeds), None)
    made = [_base_chain(study, base, tasks)]
    for label, family in study.families.items():
        for task in study.tasks:
            for seed in study.seeds:
                chain = _chain(study, base, tasks, (label, family, task, seed), baselines)
                made.append(chain)
    return Plan(study, base, tasks, tuple(made))


def training_settings(study: Study, family: Family, seed: int) -> TrainingSettings:
    """Returns the settings that a family is trained with."""
    from kronq.torch.training.settings import TrainingSettings

    kind = "lora" if family.family == "rslora" else family.family
    sizes = (family.rank, family.a_in, family.a_out, family.b_out, family.factor)
    recipe = study.training.given() | family.given()
    return TrainingSettings(
        AdapterShape(kind, *sizes), family.family == "rslora", seed=seed, **recipe
    )


def _base_chain(study: Study, base: Base, tasks: Mapping[str, TaskExamples]) -> Chain:
    scores = tuple(
        _score(study, "base", task, tasks[task], base.digest, "base") for task in study.tasks
    )
    return Chain("", "", 0, base.digest, None, (), scores)


def _chain(
    study: Study,
    base: Base,
    tasks: Mapping[str, TaskExamples],
    cell: tuple[str, Family, str, int],
    baselines: tuple[str, ...],
) -> Chain:
    label, family, task, seed = cell
    settings = training_settings(study, family, seed)
    learned = tasks[task].learned_digest
    key = _key("trained", base.digest, learned, settings.described(), study.dtype)
    files = tuple(
        step
        for method in study.methods
        if method.families is None or label in method.families
        for step in _file_steps(method, key, baselines)
    )
    scored = [task, *(to for start, to in study.transfer if start == task)]
    scores = [
        _score(study, source, name, tasks[name], source_key, kind)
        for name in scored
        for source, source_key, kind in (
            ("trained", key, "trained"),
            *((step.key, step.key, "files") for step in files),
        )
    ]
    return Chain(label, task, seed, key, settings, files, tuple(scores))


def _file_steps(method: Method, trained: str, baselines: tuple[str, ...]) -> list[FileStep]:
    if method.method == "baseline":
        assert method.name is not None  # noqa: S101
        names = [n for n in baselines if n == method.name or n.split()[0] == method.name]
        return [FileStep(_key("file", trained, n), n, None, n) for n in names]
    if method.method == "fp16":
        return [_file_step(trained, Float16(), bits=16)]
    found = [_file_step(trained, _config(method, bits=b), bits=b) for b in method.bits]
    return found + [_file_step(trained, _config(method, size=s), size=s) for s in method.sizes]


def _config(method: Method, *, bits: float | None = None, size: Any = None) -> Config:
    refit = {} if method.refit is None else {"refit": method.refit}
    if method.method == "tuned":
        steps = {} if method.steps is None else {"steps": method.steps}
        return Tuned(TUNED_MODEL, TUNED_DATA, bpw=bits, size=size, **steps)
    if bits is not None:
        return config_for(method.method, bits, **refit)
    kind: Any = Native if method.method == "native" else Compact
    made: Config = kind(size=size, **refit)
    return made


TUNED_MODEL, TUNED_DATA = "base", "task"
"""What stands for the base and the task's examples in a key; the paths are put in afterwards."""


def _file_step(
    trained: str, config: Config, *, bits: float | None = None, size: int | str | None = None
) -> FileStep:
    fields = {k: v for k, v in asdict(config).items() if v not in (None, {})}
    told = ", ".join(
        f"{k} {v}" for k, v in fields.items() if k not in ("model", "data", "method", "seed")
    )
    key = _key("file", trained, config.method, fields)
    return FileStep(key, config.method, config, told, bits, size)


def _score(
    study: Study, source: str, task: str, examples: TaskExamples, source_key: str, kind: str
) -> ScoreStep:
    choices = examples.choices and kind in study.accuracy
    key = _key("score", source_key, examples.scored_digest, choices)
    return ScoreStep(key, source, task, choices)


def _key(kind: str, *parts: Any) -> str:
    return digest(kind, MEANING, *(json.dumps(part, sort_keys=True, default=str) for part in parts))
