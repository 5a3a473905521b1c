"""The steps of a study, each with a key that says everything that its result depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kronq import limits
from kronq.io.cache import digest
from kronq.planning.families import AdapterShape
from kronq.quantization.config_names import config_for
from kronq.quantization.configs import Compact, Config, Float16, Native, Tuned
from kronq.study.config import Method, Sequence, Study
from kronq.study.family import PEFT, Family
from kronq.study.sources import Base, TaskExamples, TextSource
from kronq.study.steps import IN_THE_LOOP, Chain, FileStep, Plan, ScoreStep, Start, TextStep

if TYPE_CHECKING:
    from kronq.torch.training.settings import TrainingSettings

MEANING = "1"
"""Part of every key: another number, and all of a study is made anew."""


@dataclass(frozen=True)
class Sources:
    """What a study is planned of.

    Attributes:
        study: The study.
        base: Its base.
        tasks: Label → examples.
        texts: Label → text.
        baselines: Names of the baselines that are installed.
    """

    study: Study
    base: Base
    tasks: Mapping[str, TaskExamples]
    texts: Mapping[str, TextSource] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()


def make_plan(sources: Sources) -> Plan:
    """Plans a study.

    Raises:
        ArgumentError: A family, recipe or method has values that do not do.
    """
    study = sources.study
    then = sum(
        1 + sum(1 + len(m.bits) + len(m.sizes) for m in each.between) for each in study.sequential
    )
    count = len(study.families) * len(study.seeds) * (len(study.tasks) + then)
    limits.CHAINS.check(count, None)
    made = [_base_chain(sources)]
    cells = [(label, seed) for label in study.families for seed in study.seeds]
    first = {
        (label, task, seed): _chain(sources, label, task, seed)
        for label in study.families
        for task in study.tasks
        for seed in study.seeds
    }
    later: list[Chain] = []
    for each in study.sequential:
        for label, seed in cells:
            if each.families is None or label in each.families:
                cell = (label, each.first, seed)
                first[cell], followers = _sequence(sources, first[cell], each)
                later += followers
    return Plan(study, sources.base, sources.tasks, (*made, *first.values(), *later), sources.texts)


def training_settings(study: Study, family: Family, seed: int) -> TrainingSettings:
    """Returns the settings that a family is trained with."""
    from kronq.torch.training.peft_families import PeftShape
    from kronq.torch.training.settings import TrainingSettings

    kind = "lora" if family.family == "rslora" else family.family
    recipe = study.training.given() | family.given()
    if family.family in PEFT:
        shape = PeftShape(family.family, family.rank, family.peft)
        return TrainingSettings(shape, seed=seed, **recipe)
    assert family.rank is not None  # noqa: S101
    sizes = (family.rank, family.a_in, family.a_out, family.b_out, family.factor)
    return TrainingSettings(
        AdapterShape(kind, *sizes), family.family == "rslora", seed=seed, **recipe
    )


def _base_chain(sources: Sources) -> Chain:
    study, key = sources.study, sources.base.digest
    scores = tuple(_score(sources, "base", task, key, "base") for task in study.tasks)
    texts = tuple(_text(sources, "base", label, key, "") for label in study.texts)
    return Chain("", "", 0, key, None, (), scores, texts)


def _chain(sources: Sources, label: str, task: str, seed: int, start: Start | None = None) -> Chain:
    study, base = sources.study, sources.base
    settings = training_settings(study, study.families[label], seed)
    learned = sources.tasks[task].learned_digest
    parts = [base.digest, learned, settings.described(), study.dtype]
    key = _key("trained", *parts, *([] if start is None else [start.key]))
    size = settings.target
    files = [
        step
        for method in study.methods
        if (size is None if method.families is None else label in method.families)
        for step in _file_steps(method, key, sources.baselines)
    ]
    made = [] if size is None else [_in_the_loop(key, size)]
    chain = Chain(label, task, seed, key, settings, (*made, *files), (), (), start)
    return _scored(sources, chain)


def _scored(sources: Sources, chain: Chain) -> Chain:
    """Returns a chain with all scores of its adapter and files.

    What is trained for a size is its file; the floats behind the codes were never run.
    """
    study = sources.study
    tasks = [chain.task, *(to for start, to in study.transfer if start == chain.task)]
    if chain.start is not None and chain.start.task not in tasks:
        tasks.append(chain.start.task)
    made = [(file.key, file.key, "files") for file in chain.files]
    if chain.settings is None or chain.settings.target is None:
        made.insert(0, ("trained", chain.key, "trained"))
    scores = [_score(sources, source, t, key, kind) for t in tasks for source, key, kind in made]
    texts = [
        _text(sources, source, label, key, chain.key)
        for label in study.texts
        for source, key, _ in made
    ]
    return replace(chain, scores=tuple(scores), texts=tuple(texts))


def _sequence(sources: Sources, first: Chain, sequence: Sequence) -> tuple[Chain, list[Chain]]:
    """Returns the first training, with the files between, and those that go on from it."""
    between = [
        step
        for method in sequence.between
        if method.families is None or first.family in method.families
        for step in _file_steps(method, first.key, sources.baselines)
    ]
    known = {step.key for step in first.files}
    files = (*first.files, *(step for step in between if step.key not in known))
    starts = [Start(first.task, first.key)]
    starts += [Start(first.task, s.key, f"{s.method} {s.setting}") for s in between]
    then = [_chain(sources, first.family, sequence.then, first.seed, start) for start in starts]
    return _scored(sources, replace(first, files=files)), then


def _file_steps(method: Method, trained: str, baselines: tuple[str, ...]) -> list[FileStep]:
    if method.method == "baseline":
        assert method.name is not None  # noqa: S101
        names = [n for n in baselines if n == method.name or n.split()[0] == method.name]
        return [FileStep(_key("file", trained, n), n, None, n) for n in names]
    if method.method == "fp16":
        return [_file_step(trained, Float16(), bits=16)]
    found = [_file_step(trained, _config(method, bits=b), bits=b) for b in method.bits]
    return found + [_file_step(trained, _config(method, size=s), size=s) for s in method.sizes]


def _in_the_loop(trained: str, size: int | str) -> FileStep:
    key = _key("file", trained, IN_THE_LOOP)
    return FileStep(key, IN_THE_LOOP, None, f"size {size}", size=size)


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


def _score(sources: Sources, source: str, task: str, source_key: str, kind: str) -> ScoreStep:
    examples = sources.tasks[task]
    choices = examples.choices and kind in sources.study.accuracy
    key = _key("score", source_key, examples.scored_digest, choices)
    return ScoreStep(key, source, task, choices)


def _text(sources: Sources, source: str, text: str, source_key: str, trained: str) -> TextStep:
    told = sources.texts[text]
    parts = (sources.base.digest, source_key, trained, told.digest, told.tokens)
    return TextStep(_key("text", *parts), source, text)


def _key(kind: str, *parts: Any) -> str:
    return digest(kind, MEANING, *(json.dumps(part, sort_keys=True, default=str) for part in parts))
