"""Optional packages, checked before any work begins."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from kronq.errors import MissingDependencyError

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "genai": ("onnxruntime_genai",),
    "base": ("onnxruntime_genai", "torch", "transformers"),
    "plot": ("matplotlib",),
    "torch": ("torch", "transformers"),
    "hub": ("huggingface_hub",),
    "llama-cpp": ("gguf", "xllamacpp"),
    "serve": ("starlette", "uvicorn", "prometheus_client"),
    "ray": ("ray", "starlette", "uvicorn", "prometheus_client"),
    "lm-eval": ("lm_eval", "onnxruntime_genai"),
    "train": ("torch", "transformers", "matplotlib"),
    "study": ("matplotlib", "onnxruntime_genai", "pyarrow", "torch", "transformers", "yaml"),
}
"""Extra of kronq → import names of what it is for."""

_CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
"""Installs a torch of 0.2 GB; PyPI's brings CUDA, 3 GB."""


def require(extra: str, purpose: str, *packages: str) -> None:
    """Checks that packages are installed, without importing them.

    Args:
        extra: Extra of kronq that installs them.
        purpose: Feature that needs them, for the error.
        packages: Import names, if not those of ``PACKAGES``.

    Raises:
        MissingDependencyError: Some of them are not installed.
    """
    wanted = packages or PACKAGES[extra]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        hint = f"pip install 'kronq[{extra}]'"
        if "torch" in missing:
            hint += f"; before it, for a torch without CUDA: {_CPU_TORCH}"
        raise MissingDependencyError(
            f"{purpose} needs packages that are not installed",
            found=f"no {', no '.join(missing)}",
            hint=hint,
        )
