"""Native codes: a width for each channel, allocated by the error it saves.

Each layer is coded in the gauge as trained or the principal one (``gauges``), each channel in the
bits that save most error per byte (``bit_allocation``), with error feedback (``gptq``), each factor
fitted to the codes of the other, and scales by least squares (``factor_pairs``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kronq.errors import ArgumentError
from kronq.io.progress import Progress, offset_progress
from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import Delta
from kronq.model.error_weights import find_moments
from kronq.model.second_moments import SecondMoments
from kronq.quantization.layer_overrides import refuse_unused_overrides
from kronq.quantization.mixed.native_coder import NativeCoder, native_recipe
from kronq.quantization.uniform.layer import quantize_layers


def native(
    adapter: Adapter,
    bits: float = 4,
    *,
    size: int | None = None,
    overrides: Mapping[str, int] | None = None,
    moments: SecondMoments | None = None,
    progress: Progress | None = None,
) -> Adapter:
    """Quantizes every layer to integer codes that need no decoding.

    Args:
        adapter: As it was trained.
        bits: Bits of a code on average: the file is at most as large as that of ``balanced`` with
            so many bits. (Where a header weighs more than that leaves, the codes still have their
            bits.)
        size: Instead, the bytes of the file, header included.
        overrides: Regular expression, searched in a layer's name → bits of the layers that match;
            the last that matches wins. Layers of one width share the bytes that ``bits`` of that
            width would give them alone; 16 leaves float16. Not with ``size``.
        moments: Second moments of every layer; the error is then that of the layers' outputs.
        progress: Called with (layers done, layers in all).

    Raises:
        ArgumentError: The size cannot be reached, or an override matches no layer or comes with
            ``size``.
        MismatchError: Calibration did not see a layer.
    """
    if moments is not None:
        for name in adapter:
            find_moments(moments, name)
    if not overrides:
        return NativeCoder.create(adapter, bits, size, moments).quantize(progress)
    refuse_unused_overrides(adapter, overrides)
    if size is not None:
        raise ArgumentError("a file of a given size has no widths for single layers")
    recipe = replace(native_recipe(adapter, bits), layer_bits=dict(overrides))
    names_by_width: dict[float, list[str]] = {}
    for name in adapter:
        names_by_width.setdefault(recipe.bits_for(name), []).append(name)
    layers: dict[str, Delta] = {}
    for width, names in names_by_width.items():
        part = replace(adapter, layers={name: adapter[name] for name in names})
        if width == 16:
            float16 = Recipe("fp16", 16)
            layers |= quantize_layers(part, float16)
        else:
            report = offset_progress(progress, len(layers), len(adapter))
            layers |= NativeCoder.create(part, width, None, moments).quantize(report).layers
    return replace(adapter, layers={name: layers[name] for name in adapter}, recipe=recipe)
