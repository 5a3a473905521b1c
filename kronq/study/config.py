"""The file that a study is described by: families, tasks, seeds and methods."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from kronq.errors import FormatError, StrPath
from kronq.io.refused_field import first_refused
from kronq.study.family import Family, Part, Recipe
from kronq.study.yaml_file import read_yaml

MethodName = Literal["native", "compact", "balanced", "rtn", "fp16", "tuned", "baseline"]
Scored = Literal["base", "trained", "files"]


class Task(Part):
    """A task: two files of examples, or one that is split.

    Attributes:
        train: What is learned.
        test: What is scored; None where ``test_share`` of ``train`` is.
        test_share: Share of ``train`` that is kept for scoring; 0 scores what was learned.
        split_seed: Seed of the split, and of the choice of ``questions``.
        questions: How many are scored; None for all.
        choices: Whether every choice is scored, for accuracy, wherever ``accuracy`` asks for it.
    """

    train: str
    test: str | None = None
    test_share: float | None = Field(default=None, ge=0, lt=1)
    split_seed: int = 0
    questions: int | None = Field(default=None, ge=2)
    choices: bool = True

    @model_validator(mode="after")
    def _one_test(self) -> Task:
        if (self.test is None) == (self.test_share is None):
            raise ValueError("a task has either 'test' or 'test_share'")
        return self


class Method(Part):
    """A method at widths or at sizes of files.

    Attributes:
        bits: Widths of codes; bits per weight of the file for ``compact`` and ``tuned``.
        sizes: Sizes of whole files, as ``15KB``.
        refit: As of ``kronq.Compact``.
        steps: Of ``tuned``.
        families: Labels of the families that it is used on; None for all.
        name: Of a baseline, or the first word of several's.
    """

    method: MethodName
    bits: tuple[float, ...] = ()
    sizes: tuple[str | int, ...] = ()
    refit: Literal["fit", "unbiased"] | None = None
    steps: int | None = None
    families: tuple[str, ...] | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _sized(self) -> Method:
        free = self.method in ("fp16", "baseline")
        if free == bool(self.bits or self.sizes):
            raise ValueError(f"{self.method} has {'neither' if free else 'either'} bits or sizes")
        if self.sizes and self.method not in ("native", "compact", "tuned"):
            raise ValueError(f"{self.method} has bits, and no sizes")
        if (self.method == "baseline") != (self.name is not None):
            raise ValueError("a baseline has a name, and nothing else has")
        return self


class Text(Part):
    """Text of no task, on which distributions of the next token are compared.

    Attributes:
        file: Plain text.
        tokens: How many are read, from the beginning.
    """

    file: str
    tokens: int = Field(default=2048, ge=16)


class Sequence(Part):
    """One task learned after another: a training that goes on from the adapter of the first.

    Attributes:
        first: Task.
        then: Task.
        between: What is done with the first adapter before the second training; without anything
            it is always made, too.
        families: Labels; None for all.
    """

    first: str
    then: str
    between: tuple[Method, ...] = ()
    families: tuple[str, ...] | None = None


class Pair(Part):
    """Two families whose losses are compared: of ``kron`` less those of ``lora``."""

    name: str
    kron: str
    lora: str


class Study(Part):
    """A study.

    Attributes:
        base: The base as a Hugging Face folder or a GGUF file.
        onnx: The same as ``kronq base`` writes it; None to build it.
        seeds: Of the trainings.
        training: The recipe of all families.
        families: Label → family.
        tasks: Label → task.
        methods: What is done with each trained adapter.
        accuracy: For what accuracy is found, which takes several times as long as NLL.
        pairs: The families that are compared in what quantization costs them.
        reference: Family that sizes are compared with (Bjøntegaard delta); the first if None.
        dtype: Of the files of adapters as trained; LoRA-XS's are float32.
        transfer: (trained on, scored on) beside the own task.
        texts: Label → text that everything is compared on, with the base and as trained.
        sequential: Tasks that are learned one after the other.
    """

    name: str = "study"
    base: str = "base"
    onnx: str | None = None
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    training: Recipe = Recipe()
    families: dict[str, Family] = Field(min_length=1)
    tasks: dict[str, Task] = Field(min_length=1)
    methods: tuple[Method, ...] = ()
    accuracy: tuple[Scored, ...] = ("base", "trained", "files")
    pairs: tuple[Pair, ...] = ()
    reference: str | None = None
    dtype: Literal["fp32", "fp16", "bf16"] = "bf16"
    transfer: tuple[tuple[str, str], ...] = ()
    texts: dict[str, Text] = Field(default_factory=dict)
    sequential: tuple[Sequence, ...] = ()

    @model_validator(mode="after")
    def _known_labels(self) -> Study:
        families = [label for pair in self.pairs for label in (pair.kron, pair.lora)]
        families += [label for method in self.methods for label in method.families or ()]
        families += [self.reference] if self.reference else []
        families += [label for each in self.sequential for label in each.families or ()]
        _check_labels("family", families, self.families)
        sequences = [t for each in self.sequential for t in (each.first, each.then)]
        tasks = [t for pair in self.transfer for t in pair] + sequences
        _check_labels("task", tasks, self.tasks)
        if both := {*self.texts} & {*self.tasks}:
            raise ValueError(f"{min(both)!r} is a task and a text")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError("a seed is given twice")
        return self


def _check_labels(kind: str, labels: list[str], known: dict[str, Any]) -> None:
    for label in labels:
        if label not in known:
            raise ValueError(f"no {kind} {label!r}; there are {', '.join(known)}")


def read_study(path: StrPath) -> Study:
    """Reads a study's YAML file.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is no YAML, or describes no study; the first field at fault is named.
        MissingDependencyError: PyYAML is not installed.
    """
    value = read_yaml(path)
    try:
        return Study.model_validate(value)
    except ValidationError as error:
        place, wrong = first_refused(error)
        raise FormatError(f"{place or 'the study'}: {wrong}", path=path) from None
