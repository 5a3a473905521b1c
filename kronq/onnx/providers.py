"""Execution providers of ONNX Runtime: chosen before a model is opened, and checked afterwards."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from kronq.errors import ArgumentError, KronqError
from kronq.onnx.provider_names import CPU, CUDA, full_name

if TYPE_CHECKING:
    import onnxruntime as ort

DEVICES = ("auto", "cpu", "cuda")
EXACT: Mapping[str, str] = {"session.qdq_matmulnbits_accuracy_level": "0"}
"""Session configuration that keeps DequantizeLinear + MatMul in float arithmetic.

Without it ONNX Runtime rewrites the pair to int8 arithmetic without a warning: a relative error of
4e-3 in place of 3e-7.
"""
RECORD_NODES: Mapping[str, str] = {"session.record_ep_graph_assignment_info": "1"}
"""Session configuration that ``count_nodes`` needs."""


class ExecutionOptions(TypedDict, total=False):
    """Keyword arguments of everything that runs a model; ``choose_target`` takes them.

    Attributes:
        device: ``auto`` (CUDA if this onnxruntime has it, else the CPU), ``cpu`` or ``cuda``.
        provider: Execution provider of the installed onnxruntime in place of a device, by its full
            or short name (``openvino``).
        provider_options: The provider's own options.
        threads: Threads within one operator; None leaves it to ONNX Runtime (one a core).
    """

    device: str
    provider: str | None
    provider_options: Mapping[str, str] | None
    threads: int | None


@dataclass(frozen=True)
class ExecutionTarget:
    """Provider and threads that a model runs with.

    Attributes:
        provider: ONNX Runtime's execution provider; nodes that it does not support run on the CPU.
        options: The provider's own options, as ONNX Runtime documents them.
        required: Whether the user named it: the CPU must not stand in.
        threads: Threads within one operator; None leaves it to ONNX Runtime (one a core).
    """

    provider: str = CPU
    options: Mapping[str, str] = field(default_factory=dict)
    required: bool = False
    threads: int | None = None

    @property
    def providers(self) -> list[Any]:
        """Providers as ``InferenceSession`` takes them, the preferred one first."""
        if self.provider == CPU:
            return [CPU]
        return [(self.provider, dict(self.options)), CPU]


def choose_target(
    device: str = "auto",
    provider: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> ExecutionTarget:
    """Resolves a device or a provider's name to an execution target on this machine.

    Args:
        device: ``auto`` (CUDA if this onnxruntime has it, else the CPU), ``cpu`` or ``cuda``.
        provider: Execution provider of the installed onnxruntime in place of a device, by its full
            or short name (``openvino``), in any case.
        provider_options: The provider's own options.
        threads: Threads within one operator; None leaves it to ONNX Runtime (one a core).

    Raises:
        KronqError: The device or provider is unknown, both are given, options are given without a
            provider, or ``threads`` is below 1.
        MissingDependencyError: This onnxruntime does not have the provider.
    """
    import onnxruntime as ort

    if threads is not None and threads < 1:
        raise ArgumentError("not a number of threads", found=threads, expected="1 or more")
    if device not in DEVICES:
        raise ArgumentError("unknown device", found=device, expected=", ".join(DEVICES))
    if provider is not None and device != "auto":
        raise ArgumentError(
            "a device and a provider", found=f"{device}, {provider}", expected="one of them"
        )
    available = ort.get_available_providers()
    required = provider is not None or device == "cuda"
    if required:
        name = full_name(provider or "cuda", available, ort.get_all_providers())
    else:
        name = CUDA if device == "auto" and CUDA in available else CPU
    if provider_options and name == CPU:
        raise ArgumentError(
            "the CPU takes no provider options",
            found=", ".join(provider_options),
            hint="name the provider that they belong to",
        )
    return ExecutionTarget(name, dict(provider_options or {}), required, threads)


def parse_provider_options(texts: Sequence[str]) -> dict[str, str]:
    """Parses provider options written as ``key=value``.

    Raises:
        KronqError: A text has another form, or a key is repeated.
    """
    options: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise ArgumentError("bad provider option", found=repr(text), expected="KEY=VALUE")
        if key.strip() in options:
            raise ArgumentError("a provider option is given twice", found=key.strip())
        options[key.strip()] = value
    return options


def check_provider(session: ort.InferenceSession, target: ExecutionTarget) -> str:
    """Returns the provider that a session started with.

    Raises:
        KronqError: It is not the target's: a driver or a library is missing.
    """
    first = str(session.get_providers()[0])
    if first != target.provider:
        raise KronqError(
            "the session did not start on the device",
            found=first,
            expected=target.provider,
            hint="onnxruntime's message above names the missing library; {device=cpu} runs anyway",
        )
    return first


def count_nodes(session: ort.InferenceSession) -> dict[str, int]:
    """Counts the nodes of the optimized graph by the provider that runs them, most first.

    The session must have been opened with ``RECORD_NODES``. Nodes that a provider takes over as
    one piece count as the nodes they were.
    """
    counts: collections.Counter[str] = collections.Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts.most_common())
