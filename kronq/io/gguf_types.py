"""Types of a GGUF file's tensors: those that the gguf package can dequantize, and the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kronq.errors import UnsupportedError


def check_types(types: Mapping[str, int]) -> None:
    """Refuses a file with a tensor that the installed gguf package cannot dequantize.

    Args:
        types: Tensor → number of its type, as the file has it.

    Raises:
        UnsupportedError: There is one; the first is named.
    """
    from gguf import GGMLQuantizationType

    names = {kind.value: kind.name for kind in GGMLQuantizationType}
    readable = {number for number in {*types.values()} & names.keys() if _is_readable(number)}
    strange = {tensor: number for tensor, number in types.items() if number not in readable}
    for tensor, number in strange.items():
        others = f"; {len(strange) - 1:,} more tensors like it" if len(strange) > 1 else ""
        raise UnsupportedError(
            f"a tensor of a type that the gguf package does not read{others}",
            layer=tensor,
            found=names.get(number, f"type number {number}, which it does not know"),
            expected=", ".join(names[each] for each in names if _is_readable(each)),
            hint="'pip install -U gguf' may read it; or take the model in another type, such as "
            "llama.cpp's 'llama-quantize --allow-requantize IN.gguf OUT.gguf Q8_0' writes it",
        )


def _is_readable(number: int) -> bool:
    """Returns whether a block of this type, made of zeros, can be dequantized."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    kind = GGMLQuantizationType(number)
    try:
        dequantize(np.zeros(GGML_QUANT_SIZES[kind][1], np.uint8), kind)
    except NotImplementedError:
        return False
    return True
