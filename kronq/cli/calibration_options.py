"""Calibration options, for every verb that measures errors on the user's own text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import click

from kronq.calibration.token_limit import LIMIT_TOKENS
from kronq.cli.command import option
from kronq.cli.progress import progress_bar
from kronq.cli.stopping import telling
from kronq.errors import KronqError
from kronq.io.extras import require

if TYPE_CHECKING:
    from kronq.model.adapter import Adapter
    from kronq.model.second_moments import SecondMoments

TEXT = "Your text"
_KEPT = "what was read of the text is kept, and the same command goes on from there"
_CACHE = "$KRONQ_CACHE or ~/.cache/kronq"
F = TypeVar("F", bound=Callable[..., Any])
Metric = Literal["plain", "input", "two-sided"]


@dataclass(frozen=True)
class CalibrationOptions:
    """Values of the calibration options.

    Attributes:
        calibration: The text; None without calibration.
        base: An ONNX model or folder.
        hf_model: A Hugging Face folder.
        metric: The error that counts; None where it was left to kronq.
        cache: Folder for the moments; None for the default one.
        calibration_tokens: Tokens of the text at most; None for the default limit.
    """

    calibration: str | None = None
    base: str | None = None
    hf_model: str | None = None
    metric: Metric | None = None
    cache: str | None = None
    calibration_tokens: int | None = None

    @property
    def uses_torch(self) -> bool:
        """Whether moments are collected in torch, not in ONNX Runtime."""
        return self.effective_metric == "two-sided" or self.base is None

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """Files and folders that are read."""
        return self.calibration, self.base, self.hf_model

    @property
    def effective_metric(self) -> Metric:
        """Error that counts, the default resolved."""
        return self.metric or ("plain" if self.calibration is None else "input")


def calibration_options(command: F) -> F:
    """Adds the options; the command gets them as one argument, ``calibration``."""

    @functools.wraps(command)
    def with_grouped_options(*args: Any, **given: Any) -> Any:
        own = {field.name: given.pop(field.name) for field in fields(CalibrationOptions)}
        return command(*args, **given, calibration=CalibrationOptions(**own))

    wrapped: Any = with_grouped_options
    for add in (
        option("--cache", metavar="DIR", group=TEXT, rare=True, help=f"Cache.  [{_CACHE}]"),
        option(
            "--calibration-tokens",
            type=click.IntRange(min=1),
            metavar="N",
            group=TEXT,
            rare=True,
            help=f"Tokens that are read at most.  [default: {LIMIT_TOKENS}]",
        ),
        option(
            "--metric",
            type=click.Choice(get_args(Metric)),
            group=TEXT,
            rare=True,
            help="Error that counts: plain, of ΔW; input, of ΔW·x; two-sided, of the loss.  "
            "[default: input with --calibration, else plain]",
        ),
        option(
            "--hf-model",
            metavar="DIR",
            group=TEXT,
            help="Base as a Hugging Face folder, for --method tuned.",
        ),
        option(
            "--base",
            metavar="DIR",
            group=TEXT,
            help="Base as ONNX, a folder or a file.",
        ),
        option(
            "--calibration",
            metavar="FILE",
            group=TEXT,
            help="Text, or questions as .jsonl, to judge errors by.",
        ),
    ):
        wrapped = add(wrapped)
    return wrapped  # type: ignore[no-any-return]


def check_calibration(
    given: CalibrationOptions, *, base_used: bool = False, tuned: bool = False
) -> None:
    """Refuses incomplete or idle options before any work begins.

    Args:
        given: The options.
        base_used: Whether --base has another use as well.
        tuned: Whether text and model are for distillation, and a metric counts only if it is named.

    Raises:
        KronqError: A metric lacks its data or its model, or an option has no effect.
    """
    metric = given.effective_metric
    if tuned and given.metric is None:
        return
    if given.calibration is None:
        if metric != "plain":
            raise KronqError(
                f"--metric {metric} measures errors on text, and there is none",
                hint="add --calibration FILE with text as the adapter will read it",
            )
        unused = {
            "--hf-model": given.hf_model,
            "--calibration-tokens": given.calibration_tokens,
            "--base": None if base_used else given.base,
        }
        for option, value in unused.items():
            if value is not None:
                raise KronqError(f"{option} does nothing here", hint="add --calibration FILE")
        return
    if metric == "input" and given.base is None:
        raise KronqError(
            "--calibration runs the base on the text, and there is no base",
            hint="add --base DIR, as 'kronq base' makes it, or --metric two-sided --hf-model DIR",
        )
    if metric == "two-sided" and given.hf_model is None:
        raise KronqError(
            "--metric two-sided needs gradients, which an ONNX base does not give",
            hint="add --hf-model DIR, the base as a Hugging Face folder",
        )
    if metric == "plain" and given.base is None and given.hf_model is None:
        raise KronqError("there is no base to run on the text", hint="add --base DIR")


def require_packages(given: CalibrationOptions, *, tuned: bool = False) -> None:
    """Checks that what reads the text is installed: torch for gradients, else genai's tokenizer.

    Raises:
        MissingDependencyError: It is not.
    """
    if tuned:
        require("torch", "--method tuned")
    if given.calibration is None or (tuned and given.metric is None):
        return
    if given.uses_torch:
        require("torch", "--calibration with --hf-model")
    else:
        require("genai", "--calibration with --base")


def collect_moments(
    given: CalibrationOptions, adapter: Adapter, *, tuned: bool = False
) -> SecondMoments | None:
    """Collects the requested moments with a progress bar; returns None without calibration."""
    if given.calibration is None or (tuned and given.metric is None):
        return None
    common: dict[str, Any] = {
        "limit_tokens": given.calibration_tokens or LIMIT_TOKENS,
        "cache": given.cache,
    }
    with telling(lambda: _KEPT), progress_bar("calibrating", "tokens") as progress:
        if given.base is None or given.uses_torch:
            from kronq.calibration.two_sided import calibrate_two_sided

            return calibrate_two_sided(
                adapter, str(given.hf_model), given.calibration, progress=progress, **common
            )
        from kronq.calibration.input_moments import calibrate

        return calibrate(adapter, given.base, given.calibration, progress=progress, **common)


def moments_for_quantizing(
    given: CalibrationOptions, moments: SecondMoments | None
) -> SecondMoments | None:
    """Returns the moments that quantizing uses: with --metric plain only the report does."""
    return None if given.effective_metric == "plain" else moments
