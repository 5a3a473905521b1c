"""Everything that a study has made, each under its key: complete or absent, in any order."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kronq import __version__
from kronq.errors import FormatError, OutputExistsError
from kronq.evaluate.score import ExampleScore
from kronq.io.files import MARK, write_file
from kronq.io.json_file import read_json
from kronq.io.refused_field import first_refused
from kronq.torch.training.output import FACTORS, PACKED

T = TypeVar("T")
Count = Annotated[int, Field(ge=0, lt=2**53)]
_CHECKSUM = "crc32"


@dataclass(frozen=True)
class Scores:
    """Scores of each question, in their order.

    Attributes:
        nll: Negative log-likelihood of the right answers, summed over their tokens.
        tokens: Number of these.
        recalled: Whether all of them were the likeliest.
        right: Whether the right choice was; None where choices were not scored.
        right_normalized: The same per character.
        seconds: CPU time.
    """

    nll: tuple[float, ...]
    tokens: tuple[int, ...]
    recalled: tuple[bool, ...]
    right: tuple[bool, ...] | None
    right_normalized: tuple[bool, ...] | None
    seconds: float

    @classmethod
    def of(cls, scores: list[ExampleScore], seconds: float) -> Scores:
        judged = scores[0].right is not None
        return cls(
            tuple(s.nll for s in scores),
            tuple(s.tokens for s in scores),
            tuple(s.recalled for s in scores),
            tuple(bool(s.right) for s in scores) if judged else None,
            tuple(bool(s.right_normalized) for s in scores) if judged else None,
            seconds,
        )


class _Facts(BaseModel):
    """What a file of facts may say; others are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    seconds: float = Field(0.0, ge=0)
    last_loss: float | None = None
    bytes: Count | None = None
    parameters: Count | None = None
    shared_bytes: Count = 0
    shared: str = ""
    tokens: Count | None = None
    nll: float | None = None
    kl_base: float | None = None
    kl_trained: float | None = None
    weight_error: float | None = None
    left_out: str = ""


@dataclass(frozen=True)
class Store:
    """The folder of a study.

    Attributes:
        root: The folder.
    """

    root: Path

    def open(self) -> None:
        """Makes the folder, or takes up one of a study.

        Raises:
            OutputExistsError: There is a folder of something else.
        """
        mark = self.root / MARK
        if self.root.exists() and not _is_study(mark) and any(self.root.iterdir()):
            raise OutputExistsError(
                "the output exists, and is no study's folder", path=self.root, hint="another {out}"
            )
        for part in ("trained", "files", "scores", "texts"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            write_file(mark, (json.dumps({"kronq": __version__, "verb": "study"}) + "\n").encode())

    def trained(self, key: str) -> Path:
        """Returns the folder of a trained adapter."""
        return self.root / "trained" / key

    def trained_adapter(self, key: str) -> Path:
        """Returns what ``kronq.load`` reads of it."""
        factors = self.trained(key) / FACTORS
        return factors if factors.exists() else self.trained(key)

    def trained_packed(self, key: str) -> Path:
        """Returns the packed file that it was trained as."""
        return self.trained(key) / PACKED

    def file(self, key: str) -> Path:
        """Returns the packed file of a key."""
        return self.root / "files" / f"{key}.safetensors"

    def facts(self, kind: str, key: str) -> dict[str, Any] | None:
        """Returns what is known of a trained adapter or file; None before it is done.

        Raises:
            FormatError: The file says something else.
        """
        path = self._facts(kind, key)
        if not path.exists():
            return None
        told = _read_sealed(path)
        _validate(TypeAdapter(_Facts), told, path)
        return told

    def write_facts(self, kind: str, key: str, facts: dict[str, Any]) -> None:
        """Says that a trained adapter or file is done."""
        _write_sealed(self._facts(kind, key), {**facts, "kronq": __version__})

    def scores(self, key: str) -> Scores | None:
        """Returns scores; None before they are done.

        Raises:
            FormatError: The file holds none.
        """
        path = self.root / "scores" / f"{key}.json"
        if not path.exists():
            return None
        told = _read_sealed(path)
        told.pop("kronq", None)
        scores = _validate(TypeAdapter(Scores), told, path)
        if not _are_possible(scores):
            raise FormatError("no scores of a study", path=path, hint="delete it")
        return scores

    def write_scores(self, key: str, scores: Scores) -> None:
        """Keeps scores."""
        path = self.root / "scores" / f"{key}.json"
        _write_sealed(path, {**asdict(scores), "kronq": __version__})

    def has_scores(self, key: str) -> bool:
        return (self.root / "scores" / f"{key}.json").exists()

    def _facts(self, kind: str, key: str) -> Path:
        return self.root / kind / f"{key}.json"


def _are_possible(scores: Scores) -> bool:
    """Whether there is as much of everything, in numbers that a table can hold."""
    parts = [scores.nll, scores.tokens, scores.recalled]
    judged = [part for part in (scores.right, scores.right_normalized) if part is not None]
    return (
        {len(part) for part in (*parts, *judged)} == {len(scores.nll)}
        and len(judged) != 1
        and len(scores.nll) > 0
        and all(0 < count < 2**53 for count in scores.tokens)
        and all(map(math.isfinite, (*scores.nll, scores.seconds)))
        and scores.seconds >= 0
    )


def _write_sealed(path: Path, told: dict[str, Any]) -> None:
    """Writes an object of JSON with a checksum of its other entries."""
    sealed = {**told, _CHECKSUM: _checksum(told)}
    write_file(path, (json.dumps(sealed) + "\n").encode(), force=True)


def _read_sealed(path: Path) -> dict[str, Any]:
    """Reads an object; those written before there were checksums have none.

    Raises:
        FormatError: It is damaged.
    """
    told = read_json(path)
    stored = told.pop(_CHECKSUM, None)
    if stored is not None and stored != _checksum(told):
        raise FormatError("the checksum differs", path=path, hint="delete it", code="checksum")
    return told


def _checksum(told: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(told, sort_keys=True).encode()):08x}"


def _validate(kind: TypeAdapter[T], told: dict[str, Any], path: Path) -> T:
    try:
        return kind.validate_python(told)
    except ValidationError as error:
        place, wrong = first_refused(error)
        message = f"no file of a study's results: {place}: {wrong}"
        raise FormatError(message, path=path, hint="delete it") from None


def _is_study(mark: Path) -> bool:
    return mark.is_file() and read_json(mark).get("verb") == "study"
