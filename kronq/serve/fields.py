"""The fields of requests, as OpenAI names them, and what is refused rather than ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kronq.engine.engine import Stop
from kronq.genai.sampling import SamplingOptions
from kronq.serve.refusal import RefusedError

WITHOUT_EFFECT = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
)
"""Fields that change no text."""

NEUTRAL: Mapping[str, Sequence[object]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
}
"""Fields that kronq does not know, with the values for which that makes no difference."""

_MANY = 2**31
"""More tokens than any model has, in its vocabulary or its context."""
_STOPS = 64
_StopText = Annotated[str, Field(max_length=1000)]
"""Stop strings are looked for after every token, while the texts of others wait."""


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StreamOptions(_Fields):
    """Settings of a stream; ``include_usage`` sends the counts of tokens at its end."""

    include_usage: bool = False
    include_obfuscation: bool = False


class TextFields(_Fields):
    """Fields that both kinds of request have."""

    model: str
    max_tokens: Annotated[int, Field(ge=1, lt=_MANY)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=_MANY)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: _StopText | Annotated[list[_StopText], Field(max_length=_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> Stop:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_wanted(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, copy: int, default_temperature: float) -> SamplingOptions:
        """Returns the settings of one of the request's ``n`` texts, each with its own seed."""
        temperature = default_temperature if self.temperature is None else self.temperature
        options: SamplingOptions = {"temperature": temperature}
        if self.seed is not None:
            options["seed"] = self.seed + copy
        if temperature > 0 and self.top_p is not None:
            options["top_p"] = self.top_p
        if temperature > 0 and self.top_k is not None and self.top_k > 0:
            options["top_k"] = self.top_k
        return options


class CompletionFields(TextFields):
    """Fields of ``/v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]]

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str) or not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)


class TextPart(_Fields):
    """A part of a message; other types than text are not read."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    role: str
    content: str | list[TextPart]
    name: str | None = None

    @property
    def plain(self) -> dict[str, str]:
        """The message as chat templates take it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": self.role, "content": content}


class ChatFields(TextFields):
    """Fields of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=_MANY)] | None = None


class LoadFields(_Fields):
    """Fields of ``/v1/load_lora_adapter``; ``load_inplace`` replaces an adapter of this name."""

    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Annotated[str, Field(min_length=1)]
    load_inplace: bool = False


class UnloadFields(_Fields):
    """Fields of ``/v1/unload_lora_adapter``."""

    lora_name: Annotated[str, Field(min_length=1)]
    lora_int_id: int | None = None


F = TypeVar("F", bound=BaseModel)


def parse_fields(kind: type[F], data: object) -> F:
    """Checks the fields of a request.

    Raises:
        RefusedError: One is wrong, or asks for something that kronq does not do.
    """
    if not isinstance(data, dict):
        raise RefusedError(400, "the body is no JSON object")
    if issubclass(kind, TextFields):
        data = {name: value for name, value in data.items() if name not in WITHOUT_EFFECT}
        for name, harmless in NEUTRAL.items():
            if name in data and data.pop(name) not in harmless:
                raise RefusedError(400, f"kronq serve does not know {name}", param=name)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from None


def _refusal(first: Mapping[str, Any]) -> RefusedError:
    where = ".".join(str(part) for part in first["loc"])
    return RefusedError(400, f"{where}: {first['msg']}", param=str(first["loc"][0]))
