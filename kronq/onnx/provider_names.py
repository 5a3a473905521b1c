"""ONNX Runtime's execution providers: their names, and the packages that bring them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kronq.errors import ArgumentError, MissingDependencyError, UnsupportedError, listing

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
SUFFIX = "executionprovider"

# What people call them where it is not the name without its ending.
ALIASES = {"directml": "dml", "migx": "migraphx", "trt": "tensorrt", "amd": "migraphx"}

_ALONE = "in place of onnxruntime"
_BUILD = "no package of onnxruntime for Python has it: it takes a build of your own"
# Packages as the Python package index has them; nothing is installed by kronq.
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

# What onnxruntime-genai's Config.append_provider takes; the CPU needs no appending.
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
    """``openvino`` of OpenVINOExecutionProvider."""
    small = name.lower().removesuffix(SUFFIX)
    return ALIASES.get(small, small)


def full_name(name: str, available: Iterable[str], known: Iterable[str]) -> str:
    """The provider that a name means: full or short, in any case.

    Args:
        name: As it was asked for.
        available: Providers of the installed onnxruntime.
        known: Providers that onnxruntime has names for, installed or not.

    Raises:
        KronqError: Nothing is called that.
        MissingDependencyError: It is a provider and the installed onnxruntime lacks it; asked
            for it, ONNX Runtime would only warn and run on the CPU.
    """
    have = {short_name(full): full for full in available}
    every = {short_name(full): full for full in (*PACKAGES, *known)} | have
    wanted = short_name(name.strip())
    if wanted not in every:
        raise ArgumentError("unknown provider", found=repr(name), expected=listing(every))
    if wanted not in have:
        raise MissingDependencyError(
            f"no {every[wanted]} in this onnxruntime",
            found=listing(have.values()),
            hint=PACKAGES.get(every[wanted], _BUILD),
        )
    return have[wanted]


def genai_name(provider: str) -> str:
    """The provider as onnxruntime-genai calls it.

    Raises:
        UnsupportedError: It generates no text there.
    """
    if provider not in GENAI:
        raise UnsupportedError(
            "onnxruntime-genai does not know this provider",
            found=provider,
            expected=listing((CPU, *GENAI)),
            hint="arrays still run there: Session.run and Session.logits, 'kronq score'",
        )
    return GENAI[provider]
