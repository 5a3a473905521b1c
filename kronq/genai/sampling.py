"""Settings of text generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypedDict

from kronq.errors import ArgumentError, check_type


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of ``Session.generate`` that ``Sampling`` takes."""

    temperature: float
    top_p: float | None
    top_k: int | None
    seed: int | None


@dataclass(frozen=True)
class Sampling:
    """Choice of the next token; None leaves a setting to the folder's genai_config.json.

    Attributes:
        temperature: 0 takes the likeliest token each time (greedy); higher is more varied.
        top_p: Sample only from the likeliest tokens that make up this share of the probability.
        top_k: Sample only from this many of the likeliest tokens.
        seed: Seed of the draws; the same seed gives the same text.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        check_type("temperature", self.temperature, Real)
        for name, value, kind in (
            ("top_p", self.top_p, Real),
            ("top_k", self.top_k, Integral),
            ("seed", self.seed, Integral),
        ):
            if value is not None:
                check_type(name, value, kind)
        if not 0 <= self.temperature < float("inf"):
            raise ArgumentError("not a temperature", found=self.temperature, expected="0 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ArgumentError("not a top-p", found=self.top_p, expected="more than 0, at most 1")
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError("not a top-k", found=self.top_k, expected="1 or more")
        if self.temperature == 0 and (self.top_p is not None or self.top_k is not None):
            raise ArgumentError(
                "top-p and top-k do nothing at temperature 0", hint="set a temperature as well"
            )

    def search_options(self) -> dict[str, Any]:
        """Returns the settings by onnxruntime-genai's names."""
        if self.temperature == 0:
            return {"do_sample": False, "num_beams": 1}
        options = {
            "top_p": self.top_p,
            "top_k": self.top_k,
            "random_seed": self.seed,
        }
        given = {name: value for name, value in options.items() if value is not None}
        return {"do_sample": True, "num_beams": 1, "temperature": self.temperature, **given}


@dataclass(frozen=True)
class GenerationSettings:
    """Length, sampling and end of a text.

    Attributes:
        max_tokens: New tokens at most.
        sampling: Choice of the next token.
        stop: The text ends before any of these strings.
    """

    max_tokens: int
    sampling: Sampling
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_type("max_tokens", self.max_tokens, Integral)
        for text in self.stop:
            check_type("a stop string", text, str)
        if self.max_tokens < 1:
            raise ArgumentError(
                "nothing to generate", found=self.max_tokens, expected="1 token or more"
            )
        if "" in self.stop:
            raise ArgumentError("an empty stop string would end every text at once")
