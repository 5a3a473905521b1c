"""What an adapter can be written as, for whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """One form of an adapter.

    Attributes:
        module: Module of ``kronq.writers`` that writes it, by its function ``write``.
        about: What it is and who loads it, for the help page.
        folder: Whether it is a folder; else one file.
        lora: Whether it can be a LoRA of a smaller rank.
        cores: Whether it is made of LoRA-XS's R alone and its bases.
    """

    module: str
    about: str
    folder: bool = False
    lora: bool = False
    cores: bool = False


FORMS: Mapping[str, Form] = {
    "peft": Form("peft", "a PEFT folder with the same factors", folder=True),
    "lora": Form(
        "peft", "a PEFT folder with the exact LoRA, for programs that know no LoKr", True, True
    ),
    "lycoris": Form("lycoris", "a LyCORIS file, for ComfyUI and LyCORIS"),
    "kohya-lora": Form(
        "lycoris", "a LoRA file of kohya's scripts, LoCon on convolutions", lora=True
    ),
    "lora-xs": Form(
        "lora_xs", "LoRA-XS's own folder, of R alone and --basis", folder=True, cores=True
    ),
    "diffusers": Form(
        "diffusers", "a file for diffusers' pipelines, LoRA, or LoKr where they load it", lora=True
    ),
    "gguf": Form("gguf_adapter", "llama.cpp's adapter file, a LoRA", lora=True),
}
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Name → numpy's name, with ml_dtypes."""
