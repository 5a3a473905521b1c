"""Text models in onnxruntime-genai: opened on a provider, with exact arithmetic."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kronq.errors import KronqError, MissingDependencyError, UnsupportedError
from kronq.io.extras import require
from kronq.io.files import link_folder
from kronq.io.json_file import refuse_damaged_json
from kronq.io.tokenizer_files import TOKENIZER, TOKENIZER_CONFIG, check_tokenizer
from kronq.io.unfinished import temporary_folder
from kronq.onnx.base_folder import load_base
from kronq.onnx.genai_config import (
    DATA_FOLDER,
    GENAI_CONFIG,
    LIBRARY,
    library_name,
    rewrite_config,
)
from kronq.onnx.last_token import last_token_graph
from kronq.onnx.model_files import ModelFiles
from kronq.onnx.provider_names import CPU, CUDA, genai_name
from kronq.onnx.providers import EXACT, ExecutionTarget
from kronq.onnx.sessions import find_kernel
from kronq.onnx.slots.kernel import verified_library

if TYPE_CHECKING:
    import onnxruntime_genai as og


_LINK = "model"
"""Name of the link to the model folder."""


@dataclass(frozen=True, eq=False)
class TextModel:
    """Model opened in onnxruntime-genai.

    Attributes:
        genai: onnxruntime-genai's model.
        provider: The execution provider that it runs on.
        files: Its files.
        checked: The private folder that it was opened from; deleted with this object.
        graph: The graph that was opened in place of the file's, which onnxruntime-genai points to.
    """

    genai: og.Model
    provider: str
    files: ModelFiles
    checked: tempfile.TemporaryDirectory[str]
    graph: bytes | None = None


def import_genai() -> Any:
    require("genai", "text")
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
    except (RuntimeError, UnicodeDecodeError) as error:  # the latter of its own message
        refuse_damaged_json(files.folder)
        check_tokenizer(files.folder)
        raise KronqError(
            "no usable tokenizer",
            path=files.folder,
            found=str(error),
            expected=f"{TOKENIZER} and {TOKENIZER_CONFIG} that onnxruntime-genai reads",
        ) from error


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
    check_text_folder(files)
    provider = _available_provider(target)
    name = None if provider == CPU else genai_name(provider)
    checked = _write_checked_folder(files, target)
    graph = _last_token_graph(files) if provider == CPU else None
    try:
        config = genai.Config(checked.name)
        config.clear_providers()
        if name is not None:
            config.append_provider(name)
            for key, value in target.options.items():
                config.set_provider_option(name, key, value)
        if graph is not None:
            config.add_model_data(f"{_LINK}/{files.model.name}", graph)
        model = genai.Model(config)
    except (RuntimeError, UnicodeDecodeError) as error:
        with contextlib.suppress(UnsupportedError):  # hard links, which this library may open
            load_base(files.model)  # names the file that is damaged
        raise KronqError(
            "onnxruntime-genai cannot load the model", path=files.model, found=str(error)
        ) from error
    if provider == CUDA and model.device_type.upper() != "CUDA":
        raise KronqError("the model did not start on CUDA", found=model.device_type)
    return TextModel(model, provider, files, checked, graph)


def _last_token_graph(files: ModelFiles) -> bytes | None:
    """Returns the graph with logits of the last tokens only; None where it is opened as it is."""
    inputs, outputs = (files.decoder(kind) or {} for kind in ("inputs", "outputs"))
    mask, logits = inputs.get("attention_mask"), outputs.get("logits")
    if not isinstance(mask, str) or not isinstance(logits, str):
        return None
    return last_token_graph(files.model, logits, mask)


def _available_provider(target: ExecutionTarget) -> str:
    if target.provider == CUDA and not import_genai().is_cuda_available():
        if target.required:
            raise MissingDependencyError(
                "no CUDA in this onnxruntime-genai",
                hint="pip install onnxruntime-genai-cuda in place of onnxruntime-genai",
            )
        return CPU
    return target.provider


def _write_checked_folder(
    files: ModelFiles, target: ExecutionTarget
) -> tempfile.TemporaryDirectory[str]:
    """Writes a private folder for onnxruntime-genai, so that what was checked is what is opened.

    It has a genai_config.json of kronq's, a link to the model folder, and a copy of the verified
    library, which onnxruntime-genai opens beside its config only.
    """
    folder = temporary_folder()
    link = Path(folder.name, _LINK)
    link_folder(files.folder, link)
    config = rewrite_config(files.genai, _LINK)
    decoder = config["model"]["decoder"]
    decoder["filename"] = f"{_LINK}/{files.model.name}"
    # Entries that onnxruntime-genai does not know go to ONNX Runtime's session configuration.
    options = {**(decoder.get("session_options") or {}), **EXACT}
    if target.threads is not None:
        options["intra_op_num_threads"] = target.threads
    named = library_name(files.genai)
    if named is not None:  # of one platform; the folder may have this machine's beside it
        library = find_kernel(files.folder) or verified_library(files.folder / named)
        shutil.copyfile(library, Path(folder.name, library.name))
        options[LIBRARY] = library.name
    options[DATA_FOLDER] = _LINK  # read where the graph comes from memory
    decoder["session_options"] = options
    # onnxruntime-genai does not know JSON's \u escapes.
    text = json.dumps(config, ensure_ascii=False)
    Path(folder.name, GENAI_CONFIG).write_text(text, "utf-8", "replace")
    return folder
