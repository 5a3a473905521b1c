"""Text models in onnxruntime-genai: opened on a provider, with exact arithmetic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kronq.errors import KronqError, MissingDependencyError, UnsupportedError
from kronq.io.extras import require
from kronq.onnx.model_files import GENAI_CONFIG, ModelFiles
from kronq.onnx.provider_names import CPU, CUDA, genai_name
from kronq.onnx.providers import ExecutionTarget
from kronq.onnx.sessions import EXACT
from kronq.onnx.slots.kernel import check_library

if TYPE_CHECKING:
    import onnxruntime_genai as og


@dataclass(frozen=True, eq=False)
class TextModel:
    """Model opened in onnxruntime-genai.

    Attributes:
        genai: onnxruntime-genai's model.
        provider: The execution provider that it runs on.
        files: Its files.
    """

    genai: og.Model
    provider: str
    files: ModelFiles


def import_genai() -> Any:
    require("genai", "text", "onnxruntime_genai")
    import onnxruntime_genai

    return onnxruntime_genai


def check_text_folder(files: ModelFiles) -> None:
    """Refuses a folder that is not an onnxruntime-genai model folder.

    Raises:
        UnsupportedError: It has no genai_config.json.
    """
    if not files.genai:
        raise UnsupportedError(
            f"no text model: no {GENAI_CONFIG} beside the model",
            path=files.folder,
            hint="{build_base} makes such a folder, and {export_onnx} keeps its files",
        )


def load_tokenizer(files: ModelFiles) -> og.Tokenizer:
    """Loads the folder's tokenizer without reading the model.

    Raises:
        UnsupportedError: The folder is not an onnxruntime-genai model folder.
        KronqError: Its tokenizer files are missing or damaged.
    """
    genai = import_genai()
    check_text_folder(files)
    try:
        return genai.Tokenizer(str(files.folder))
    except RuntimeError as error:
        raise KronqError("no usable tokenizer", path=files.folder, found=str(error)) from error


def load_text_model(files: ModelFiles, target: ExecutionTarget) -> TextModel:
    """Opens a model in onnxruntime-genai.

    Args:
        files: A folder with genai_config.json; ``files.model`` may be any .onnx file in it.
        target: Provider and threads. CUDA that the user did not name falls back to the CPU where
            this onnxruntime-genai lacks it.

    Raises:
        MissingDependencyError: The user named CUDA and this onnxruntime-genai lacks it.
        UnsupportedError: onnxruntime-genai does not know the provider, or the compiled operators
            were not made on this machine.
        KronqError: The model cannot be loaded, or did not start on the device.
    """
    genai = import_genai()
    library = files.decoder("session_options").get("custom_ops_library")
    if library is not None:
        check_library(files.folder / library)
    provider = _available_provider(target)
    name = None if provider == CPU else genai_name(provider)
    try:
        config = genai.Config(str(files.folder))
        config.overlay(json.dumps({"model": {"decoder": _decoder_overlay(files, target)}}))
        config.clear_providers()
        if name is not None:
            config.append_provider(name)
            for key, value in target.options.items():
                config.set_provider_option(name, key, value)
        model = genai.Model(config)
    except RuntimeError as error:
        raise KronqError(
            "onnxruntime-genai cannot load the model", path=files.model, found=str(error)
        ) from error
    if provider == CUDA and model.device_type.upper() != "CUDA":
        raise KronqError("the model did not start on CUDA", found=model.device_type)
    return TextModel(model, provider, files)


def _available_provider(target: ExecutionTarget) -> str:
    if target.provider == CUDA and not import_genai().is_cuda_available():
        if target.required:
            raise MissingDependencyError(
                "no CUDA in this onnxruntime-genai",
                hint="pip install onnxruntime-genai-cuda in place of onnxruntime-genai",
            )
        return CPU
    return target.provider


def _decoder_overlay(files: ModelFiles, target: ExecutionTarget) -> dict[str, Any]:
    """Returns the part of genai_config.json that kronq decides.

    Entries that onnxruntime-genai does not know by name go to ONNX Runtime's session configuration.
    """
    options: dict[str, Any] = dict(EXACT)
    if target.threads is not None:
        options["intra_op_num_threads"] = target.threads
    return {"filename": files.model.name, "session_options": options}
