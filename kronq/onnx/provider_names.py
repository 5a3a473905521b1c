"""Names of ONNX Runtime's execution providers, and the packages that have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kronq.errors import ArgumentError, MissingDependencyError, UnsupportedError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
SUFFIX = "executionprovider"

# Other names in use than the provider's own without its suffix.
ALIASES = {"directml": "dml", "migx": "migraphx", "trt": "tensorrt", "amd": "migraphx"}

_ALONE = "in place of onnxruntime"
_BUILD = "no package of onnxruntime for Python has it: it takes a build of your own"
# How to install each provider, for error messages.
PACKAGES: Mapping[str, str] = {
    CUDA: f"pip install onnxruntime-gpu {_ALONE}, and for text onnxruntime-genai-cuda "
    "in place of onnxruntime-genai",
    "TensorrtExecutionProvider": f"pip install onnxruntime-gpu {_ALONE}, and TensorRT",
    "OpenVINOExecutionProvider": f"pip install onnxruntime-openvino {_ALONE}",
    "DmlExecutionProvider": f"pip install onnxruntime-directml {_ALONE}, on Windows",
    "QNNExecutionProvider": f"pip install onnxruntime-qnn {_ALONE}",
    "MIGraphXExecutionProvider": f"pip install onnxruntime-migraphx {_ALONE}",
    "ROCMExecutionProvider": f"pip install onnxruntime-rocm {_ALONE}",
    "CANNExecutionProvider": f"pip install onnxruntime-cann {_ALONE}",
    "WebGpuExecutionProvider": f"pip install onnxruntime-webgpu {_ALONE}",
    "CoreMLExecutionProvider": "onnxruntime itself has it, on macOS",
    "WebNNExecutionProvider": "onnxruntime-web has it, in a browser",
    "JsExecutionProvider": "onnxruntime-web has it, in a browser",
    "NnapiExecutionProvider": "onnxruntime for Android has it",
    "XnnpackExecutionProvider": f"onnxruntime for Android and iOS has it; for Python {_BUILD}",
}

# Names for onnxruntime-genai's Config.append_provider, which the CPU does not need.
GENAI: Mapping[str, str] = {
    CUDA: "cuda",
    "CoreMLExecutionProvider": "CoreML",
    "DmlExecutionProvider": "DML",
    "MIGraphXExecutionProvider": "MIGraphX",
    "NvTensorRTRTXExecutionProvider": "NvTensorRtRtx",
    "OpenVINOExecutionProvider": "OpenVINO",
    "QNNExecutionProvider": "QNN",
    "VitisAIExecutionProvider": "VitisAI",
    "WebGpuExecutionProvider": "WebGPU",
    "XnnpackExecutionProvider": "XNNPACK",
}


def short_name(name: str) -> str:
    """Returns the short name of a provider: ``openvino`` for OpenVINOExecutionProvider."""
    short = name.lower().removesuffix(SUFFIX)
    return ALIASES.get(short, short)


def full_name(name: str, available: Iterable[str], known: Iterable[str]) -> str:
    """Returns the full name of a provider.

    Args:
        name: A full or short name, in any case.
        available: Providers of the installed onnxruntime.
        known: Providers that onnxruntime has names for, installed or not.

    Raises:
        KronqError: No provider has this name.
        MissingDependencyError: The installed onnxruntime lacks the provider; ONNX Runtime itself
            would only warn and run on the CPU.
    """
    installed = {short_name(full): full for full in available}
    every = {short_name(full): full for full in (*PACKAGES, *known)} | installed
    wanted = short_name(name.strip())
    if wanted not in every:
        raise ArgumentError("unknown provider", found=repr(name), expected=", ".join(sorted(every)))
    if wanted not in installed:
        raise MissingDependencyError(
            f"no {every[wanted]} in this onnxruntime",
            found=", ".join(sorted(installed.values())),
            hint=PACKAGES.get(every[wanted], _BUILD),
        )
    return installed[wanted]


def genai_name(provider: str) -> str:
    """Returns onnxruntime-genai's name of a provider.

    Raises:
        UnsupportedError: onnxruntime-genai does not run on it.
    """
    if provider not in GENAI:
        raise UnsupportedError(
            "onnxruntime-genai does not know this provider",
            found=provider,
            expected=", ".join(sorted((CPU, *GENAI))),
            hint="arrays still run there: Session.run and Session.logits, 'kronq score'",
        )
    return GENAI[provider]
