"""GGUF files as Hugging Face folders: weights dequantized to float32."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from kronq.base.gguf_sizes import check_gguf
from kronq.errors import FormatError, StrPath, UnsupportedError
from kronq.io.extras import require
from kronq.io.files import new_folder
from kronq.io.gguf_file import is_gguf


def gguf_to_hf(source: StrPath, out: StrPath, *, force: bool = False) -> Path:
    """Writes the model in a GGUF file as a Hugging Face folder with its tokenizer.

    Args:
        source: The ``.gguf`` file.
        out: The folder to write (config, float32 safetensors, tokenizer).
        force: Replace ``out`` if it exists.

    Raises:
        FormatError: The file is not a GGUF file, or is damaged.
        UnsupportedError: transformers does not know its architecture or quantization.
        OutputExistsError: ``out`` exists and ``force`` is not set.
        MissingDependencyError: torch, transformers, gguf or accelerate is not installed.
    """
    file = Path(source)
    if not is_gguf(file):
        raise FormatError("not a GGUF file", path=source, expected="a file that begins with 'GGUF'")
    require("base", "a GGUF file", "torch", "transformers", "gguf", "accelerate")
    check_gguf(file)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # With an existing folder transformers looks nowhere else, and downloads nothing.
    folder_of_file = file.absolute().parent
    # transformers draws progress bars whatever it is told; the caller has its own.
    with (
        new_folder(out, "base", force=force) as folder,
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            given = {"gguf_file": file.name, "trust_remote_code": False}
            loaded = AutoModelForCausalLM.from_pretrained(
                folder_of_file, dtype=torch.float32, **given
            )
            tokenizer = AutoTokenizer.from_pretrained(folder_of_file, **given)
        except (NotImplementedError, KeyError) as error:
            raise UnsupportedError(
                "transformers cannot read this GGUF model", path=source, found=repr(error)
            ) from error
        except Exception as error:  # gguf and transformers raise whatever they hit first
            raise FormatError(
                "unreadable GGUF file", path=source, found=repr(error), code="truncated"
            ) from error

        # transformers refuses to save a model loaded from GGUF, so its weights move into one that
        # never was quantized. Made on "meta" and assigned, that one takes no memory.
        settings = loaded.config.to_dict()
        settings.pop("quantization_config", None)
        config = type(loaded.config).from_dict(settings)
        with torch.device("meta"):
            model = type(loaded)(config)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = loaded.generation_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Path(out)
