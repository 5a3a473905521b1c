"""Where a model runs: asked for, checked, and told afterwards."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kronq.errors import KronqError, MissingDependencyError

if TYPE_CHECKING:
    import onnxruntime as ort

DEVICES = ("auto", "cpu", "cuda")
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

# Without this ONNX Runtime rewrites a constant DequantizeLinear + MatMul to int8 arithmetic:
# a relative error of 4e-3 where 3e-7 was asked for, and nothing says so.
EXACT: Mapping[str, str] = {"session.qdq_matmulnbits_accuracy_level": "0"}


def choose(device: str) -> list[str]:
    """The execution providers for ``auto``, ``cpu`` or ``cuda``, best first.

    Raises:
        KronqError: An unknown device.
        MissingDependencyError: CUDA was asked for and this onnxruntime cannot do it; it would
            only warn and run on the CPU.
    """
    import onnxruntime as ort

    if device not in DEVICES:
        raise KronqError("unknown device", found=device, expected=", ".join(DEVICES))
    available = ort.get_available_providers()
    if device == "cuda" and CUDA not in available:
        raise MissingDependencyError(
            "no CUDA in this onnxruntime",
            found=", ".join(available),
            expected=CUDA,
            hint="pip install onnxruntime-gpu, and for text onnxruntime-genai-cuda, "
            "in place of onnxruntime and onnxruntime-genai",
        )
    return [CUDA, CPU] if device != "cpu" and CUDA in available else [CPU]


def check_provider(session: ort.InferenceSession, wanted: list[str]) -> str:
    """The provider that a session really has first.

    Raises:
        KronqError: It is not the one that was wanted: a driver or a CUDA library is missing.
    """
    first = str(session.get_providers()[0])
    if first != wanted[0]:
        raise KronqError(
            "the session did not start on the device",
            found=first,
            expected=wanted[0],
            hint="onnxruntime's message above names the missing library; --device cpu runs anyway",
        )
    return first


def node_counts(session: ort.InferenceSession) -> dict[str, int]:
    """Nodes of the optimized graph by the provider that runs them, most first.

    The session must have been made with ``session.record_ep_graph_assignment_info`` = ``1``.
    """
    counts: collections.Counter[str] = collections.Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts.most_common())
