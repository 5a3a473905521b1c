"""Where a model runs: asked for, checked, and told afterwards."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kronq.errors import ArgumentError, KronqError
from kronq.onnx.provider_names import CPU, CUDA, full_name

if TYPE_CHECKING:
    import onnxruntime as ort

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Place:
    """Where a model is to run.

    Attributes:
        provider: ONNX Runtime's execution provider; what it cannot do runs on the CPU.
        options: Its own options, as ONNX Runtime documents them.
        required: Someone asked for it: the CPU must not stand in.
    """

    provider: str = CPU
    options: Mapping[str, str] = field(default_factory=dict)
    required: bool = False

    @property
    def providers(self) -> list[Any]:
        """As ``InferenceSession`` takes them, best first."""
        if self.provider == CPU:
            return [CPU]
        return [(self.provider, dict(self.options)), CPU]


def choose(
    device: str = "auto",
    provider: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Place:
    """Where ``auto``, ``cpu`` or ``cuda`` is on this machine, or one provider by name.

    Args:
        device: ``auto`` is CUDA where this onnxruntime has it, else the CPU.
        provider: Any of the installed onnxruntime, full or short (``openvino``), in any case;
            instead of a device.
        options: The provider's own.

    Raises:
        KronqError: An unknown device or provider, both of them, or options for nothing.
        MissingDependencyError: This onnxruntime does not have it.
    """
    import onnxruntime as ort

    if device not in DEVICES:
        raise ArgumentError("unknown device", found=device, expected=", ".join(DEVICES))
    if provider is not None and device != "auto":
        raise ArgumentError(
            "a device and a provider", found=f"{device}, {provider}", expected="one of them"
        )
    available = ort.get_available_providers()
    if provider is not None or device == "cuda":
        name = full_name(provider or "cuda", available, ort.get_all_providers())
        place = Place(name, dict(options or {}), required=True)
    else:
        name = CUDA if device == "auto" and CUDA in available else CPU
        place = Place(name, dict(options or {}))
    if place.options and place.provider == CPU:
        raise ArgumentError(
            "the CPU takes no provider options",
            found=", ".join(place.options),
            hint="name the provider that they belong to",
        )
    return place


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """Provider options written as ``key=value``.

    Raises:
        KronqError: One is not, or a key is there twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ArgumentError("bad provider option", found=repr(pair), expected="KEY=VALUE")
        if key.strip() in found:
            raise ArgumentError("a provider option is given twice", found=key.strip())
        found[key.strip()] = value
    return found


def check_provider(session: ort.InferenceSession, place: Place) -> str:
    """The provider that a session really has first.

    Raises:
        KronqError: It is not the one that was wanted: a driver or a library is missing.
    """
    first = str(session.get_providers()[0])
    if first != place.provider:
        raise KronqError(
            "the session did not start on the device",
            found=first,
            expected=place.provider,
            hint="onnxruntime's message above names the missing library; {device=cpu} runs anyway",
        )
    return first


def node_counts(session: ort.InferenceSession) -> dict[str, int]:
    """Nodes of the optimized graph by the provider that runs them, most first.

    The session must have been made with ``session.record_ep_graph_assignment_info`` = ``1``.
    Nodes that a provider takes over as one piece count as the nodes they were.
    """
    counts: collections.Counter[str] = collections.Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts.most_common())
