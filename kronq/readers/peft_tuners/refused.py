"""PEFT's tuners that are no ΔW of factors: what they are, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

_LORA = "PEFT's save_as_lora makes a LoRA of it, of a rank that you choose"
_MERGE = "PEFT's merge_and_unload puts it into the base, of which 'kronq base' makes a model"
_PROMPT = "run it with PEFT: a prompt is no change of weights"
_WITH_INPUT = "run it with PEFT: what it adds depends on each input"

REFUSED: Mapping[str, tuple[str, str]] = {
    "ADAMSS": ("updates of subspaces of the base's weights", _MERGE),
    "ADAPTION_PROMPT": ("trained prompts for attention", _PROMPT),
    "BEFT": ("trained biases alone", _MERGE),
    "BOFT": ("a rotation of the base's weights", _MERGE),
    "BONE": ("the forerunner of MiSS", _MERGE),
    "C3A": ("circulant blocks, of full rank", _LORA),
    "CARTRIDGE": ("a trained cache of keys and values", _PROMPT),
    "CPT": ("a trained prompt", _PROMPT),
    "DEFT": ("a projection of the base's weights", _MERGE),
    "FOURIERFT": ("coefficients of a Fourier transform, of full rank", _LORA),
    "FROD": ("a rotation of the base's weights", _MERGE),
    "GLORA": ("scales and shifts of the base's weights", _MERGE),
    "HIRA": ("a product with the base's weights, element by element", _MERGE),
    "IA3": ("scales of activations", _MERGE),
    "LILY": ("factors shared and mixed for each input", _WITH_INPUT),
    "LN_TUNING": ("trained norms alone", _MERGE),
    "MULTITASK_PROMPT_TUNING": ("trained prompts", _PROMPT),
    "OFT": ("a rotation of the base's weights", _MERGE),
    "OSF": ("the base's weights themselves", _MERGE),
    "PEANUT": ("a network beside each layer", _WITH_INPUT),
    "POLY": ("a mixture of LoRAs by task", _WITH_INPUT),
    "PREFIX_TUNING": ("trained keys and values", _PROMPT),
    "PROMPT_TUNING": ("a trained prompt", _PROMPT),
    "PSOFT": ("a rotation within the base's principal subspace", _LORA),
    "P_TUNING": ("a trained prompt", _PROMPT),
    "RANDLORA": ("sums of scaled random factors, of full rank", _LORA),
    "ROAD": ("a rotation of activations", _MERGE),
    "SHADOW": ("a small network beside the base", _WITH_INPUT),
    "SHIRA": ("single trained weights, of no low rank", _MERGE),
    "SUPERTUNING": ("single trained weights of the base", _MERGE),
    "TRAINABLE_TOKENS": ("trained rows of the embedding alone", _MERGE),
    "UNILORA": ("factors made of one short vector by random indices", _LORA),
    "WAVEFT": ("coefficients of a wavelet transform, of full rank", _LORA),
    "XLORA": ("a mixture of LoRAs for each input", _WITH_INPUT),
}
"""``peft_type`` → what it is, and a hint."""
