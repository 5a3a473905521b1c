"""genai_config.json: read once, checked, and rewritten before onnxruntime-genai sees it.

A setting of it can run code: ``custom_ops_library`` names a native library. onnxruntime-genai
reads more than Python's ``json`` does (it merges objects that occur twice), so it never gets the
file, but what kronq read, written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kronq.errors import FormatError, UnsupportedError
from kronq.io.json_file import read_json

GENAI_CONFIG = "genai_config.json"
LIBRARY = "custom_ops_library"
"""Setting that names the compiled operators' library; kronq writes it, into the decoder's only."""
DATA_FOLDER = "session.model_external_initializers_file_folder_path"
"""Setting that names the folder of the weights of a graph in memory."""

_DROPPED = {
    LIBRARY,
    "provider_options",
    "providers",
    "enable_profiling",
    DATA_FOLDER,
}
"""Session options that can load a library or write a file; kronq chooses the provider itself."""


def read_genai_config(folder: Path) -> dict[str, Any]:
    """Reads and checks genai_config.json of a folder; returns an empty dict where there is none.

    Raises:
        FormatError: It is damaged, or a name occurs twice in it.
        UnsupportedError: It names a library where kronq names none.
    """
    file = folder / GENAI_CONFIG
    if not file.is_file():
        return {}
    config = read_json(file)
    decoder = _object(_object(config, "model"), "decoder")
    if decoder is None:
        raise FormatError("no 'model.decoder' in it", path=file)
    options = decoder.get("session_options")
    if options is not None and not isinstance(options, dict):
        raise FormatError("'model.decoder.session_options' is no object", path=file)
    _check_library(options or {}, config, file)
    _check_values(config["model"], ("context_length", "vocab_size"), file)
    _check_values(decoder, ("num_key_value_heads", "head_size", "num_hidden_layers"), file)
    _check_values(_object(decoder, "sliding_window") or {}, ("window_size",), file)
    return config


def library_name(config: Mapping[str, Any]) -> str | None:
    """Returns the file name of the compiled operators' library; None without compiled slots."""
    options = config["model"]["decoder"].get("session_options") or {}
    name: str | None = options.get(LIBRARY)
    return name


def cache_window(config: Mapping[str, Any]) -> int:
    """Returns the least length of a windowed KV cache, in tokens; 0 where no layer has one.

    onnxruntime-genai's builder gives sliding layers such a cache, if it is not told otherwise.

    Args:
        config: What ``read_genai_config`` returned.
    """
    window = config.get("model", {}).get("decoder", {}).get("sliding_window")
    if not isinstance(window, dict) or not window.get("layers"):
        return 0
    size: int = window.get("window_size", 0)
    return size


def rewrite_config(config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Returns a config for onnxruntime-genai that lies beside the model folder.

    Args:
        config: What ``read_genai_config`` returned.
        folder: Name by which the config reaches the model folder; it goes before each file name.

    Returns:
        The same config without session options that load libraries, choose providers or write
        files.
    """
    result: dict[str, Any] = _rewrite(config, f"{folder}/")
    if not cache_window(config):
        # A window of no layer: onnxruntime-genai would make every cache as short all the same.
        result["model"]["decoder"].pop("sliding_window", None)
    return result


def _rewrite(value: Any, prefix: str) -> Any:
    if isinstance(value, list):
        return [_rewrite(part, prefix) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        name: f"{prefix}{part}" if _names_file(name, part) else _rewrite(part, prefix)
        for name, part in value.items()
        if not (name in _DROPPED or name.startswith(("ep_", "ep.")))
    }


def _names_file(name: str, value: Any) -> bool:
    return isinstance(value, str) and value != "" and name.rpartition("_")[2] == "filename"


def _check_values(settings: Mapping[str, Any], counts: Sequence[str], file: Path) -> None:
    """Refuses counts that are no positive integers and a file name that is no text."""
    for name in counts:
        value = settings.get(name, 1)
        if type(value) is not int or not 0 < value < 2**31:
            raise FormatError(f"{name} is no positive integer", path=file, found=repr(value)[:80])
    name = settings.get("filename", "")
    if not isinstance(name, str) or "\0" in name:
        raise FormatError(
            "filename is no file name", path=file, found=repr(name)[:80], code="outside"
        )


def _check_library(options: Mapping[str, Any], config: Any, file: Path) -> None:
    """Refuses a library that is named elsewhere, or lies outside of the folder."""
    named = [value for name, value in _settings(config) if name == LIBRARY]
    own = options.get(LIBRARY)
    if len(named) > (LIBRARY in options):
        raise UnsupportedError(
            f"{LIBRARY} runs code, and is where kronq writes none",
            path=file,
            expected="none, or one in model.decoder.session_options",
            code="library",
        )
    if LIBRARY in options and not (isinstance(own, str) and own and Path(own).name == own):
        raise FormatError(
            f"{LIBRARY} is no file name", path=file, found=repr(own)[:80], code="outside"
        )


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields every name and its value, however deep."""
    parts = value if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield from value.items()
        parts = list(value.values())
    for part in parts:
        yield from _settings(part)


def _object(value: Any, name: str) -> dict[str, Any] | None:
    part = value.get(name) if isinstance(value, dict) else None
    return part if isinstance(part, dict) else None
