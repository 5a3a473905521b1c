"""``kronq.quantize``: a float adapter and a configuration in, a quantized adapter out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import get_args

from kronq.errors import ArgumentError, check_type
from kronq.io.blas import small_matrices
from kronq.io.progress import Progress
from kronq.model.adapter import Adapter, Recipe, check_finite, check_norms
from kronq.model.second_moments import SecondMoments
from kronq.packed import provenance_of
from kronq.quantization.compact.size_budget import fill_size
from kronq.quantization.compact.unbiased import make_unbiased
from kronq.quantization.config_checks import FLOAT_BITS, MAX_BPW
from kronq.quantization.configs import (
    Compact,
    Config,
    Float16,
    Native,
    Tuned,
    Uniform,
    nbytes_of,
)
from kronq.quantization.error_budget import relative_error, smallest_within_error
from kronq.quantization.file_size import file_size
from kronq.quantization.layer_overrides import refuse_unused_overrides
from kronq.quantization.mixed.native import native
from kronq.quantization.uniform.a_width import most_common_width, widths_of_a
from kronq.quantization.uniform.layer import quantize_layers
from kronq.units import six_digits


@small_matrices()
def quantize(
    adapter: Adapter,
    config: Config | None = None,
    *,
    bits: int | None = None,
    second_moments: SecondMoments | None = None,
    progress: Progress | None = None,
) -> Adapter:
    """Quantizes every layer, and measures the error.

    Args:
        adapter: The adapter as it was trained.
        config: The method and its settings: ``Native``, ``Compact``, ``Tuned``, ``Uniform`` or
            ``Float16``. None for ``Native(bits=4)``.
        bits: Shorthand for ``Native(bits=bits)``; 16 for ``Float16()``.
        second_moments: Second moments of the layers' inputs, as ``calibrate`` returns them: errors
            then count as E‖(ΔW − ΔŴ)·x‖² instead of ‖ΔW − ΔŴ‖², for ``max_error`` too. ``Native``,
            ``Compact`` and ``Tuned`` only.
        progress: Called with (steps done, steps in all).

    Returns:
        The quantized adapter. Its recipe holds the settings and the relative error
        ‖ΔW − ΔŴ‖ / ‖ΔW‖ over all layers, to six digits, and ``save`` writes both.

    Raises:
        ArgumentError: The adapter is quantized already, has no layer that an override matches, or
            does not fit the size.
        FormatError: A layer has values that are not finite.

    Example:
        >>> adapter = kronq.load("my-lokr/")
        >>> quantized = kronq.quantize(adapter, kronq.Compact(size="150KB"))
        >>> kronq.save(quantized, "small.safetensors")
    """
    quantized = quantize_unmeasured(adapter, _config(config, bits), second_moments, progress)
    assert quantized.recipe is not None  # noqa: S101
    error = six_digits(relative_error(adapter, quantized))
    return replace(quantized, recipe=replace(quantized.recipe, relative_error=error))


@small_matrices()
def quantize_unmeasured(
    adapter: Adapter,
    config: Config,
    second_moments: SecondMoments | None = None,
    progress: Progress | None = None,
) -> Adapter:
    """Quantizes as ``quantize`` does; without the error, which ``measure`` computes anyway."""
    check_type("adapter", adapter, Adapter)
    refuse_quantized(adapter)
    check_finite(adapter)
    calibration = None if second_moments is None else second_moments.digest
    base = adapter.base or (None if second_moments is None else second_moments.base)
    adapter = replace(adapter, provenance=provenance_of(adapter, calibration), base=base)
    if isinstance(config, Float16 | Uniform):
        if second_moments is not None:
            raise ArgumentError(
                f"{config.method} codes do not use second_moments", expected="native or compact"
            )
        return _uniform(adapter, config, progress)
    check_norms(adapter)
    if isinstance(config, Tuned):
        return _tuned(adapter, config, second_moments, progress)
    return _within_budget(adapter, config, second_moments, progress)


def refuse_quantized(adapter: Adapter) -> None:
    """Refuses an adapter whose matrices are codes; float16 is taken as it was trained.

    Raises:
        ArgumentError: It is quantized.
    """
    if adapter.recipe is not None and adapter.recipe.method != "fp16":
        raise ArgumentError(
            "the adapter is quantized already",
            path=adapter.origin.path,
            found=f"{adapter.recipe.method} at {adapter.recipe.bits} bits",
            hint="quantize the adapter as it was trained",
        )


def _config(config: Config | None, bits: int | None) -> Config:
    if config is not None and bits is not None:
        raise ArgumentError("give config or bits, not both")
    if config is None:
        return Float16() if bits == FLOAT_BITS else Native(bits=bits)
    if not isinstance(config, Float16 | Uniform | Native | Compact | Tuned):
        names = ", ".join(kind.__name__ for kind in get_args(Config))
        raise ArgumentError("bad config", found=repr(config), expected=f"one of {names}")
    return config


def _uniform(adapter: Adapter, config: Float16 | Uniform, progress: Progress | None) -> Adapter:
    recipe, a_widths = Recipe("fp16", 16), dict.fromkeys(adapter, FLOAT_BITS)
    if isinstance(config, Uniform):
        refuse_unused_overrides(adapter, config.overrides)
        recipe = Recipe(
            config.method,
            config.bits,
            config.axis,
            config.group_size,
            config.a_bits or FLOAT_BITS,
            config.overrides,
            refit=config.refit,
        )
        if config.a_bits is None:
            a_widths = widths_of_a(adapter, recipe)
            recipe = replace(recipe, a_bits=most_common_width(a_widths))
        else:
            a_widths = dict.fromkeys(adapter, config.a_bits)
    # One thread: the matrices are small, and two only wait for each other (measured).
    layers = quantize_layers(adapter.layers, recipe, a_widths, progress)
    return _refitted(adapter, replace(adapter, layers=layers, recipe=recipe), recipe.refit)


def _within_budget(
    adapter: Adapter,
    config: Native | Compact,
    second_moments: SecondMoments | None,
    progress: Progress | None,
) -> Adapter:
    if isinstance(config, Native) and config.bits is not None:
        quantized = native(
            adapter,
            config.bits,
            overrides=config.overrides,
            moments=second_moments,
            progress=progress,
        )
        return _refitted(adapter, quantized, config.refit)
    make = partial(_filled, adapter, config, second_moments)
    if config.max_error is not None:
        return smallest_within_error(
            adapter, float(config.max_error), make, progress, moments=second_moments
        )
    return make(nbytes_of(config, adapter.parameters), progress)


def _filled(
    adapter: Adapter,
    config: Native | Compact,
    second_moments: SecondMoments | None,
    size: int,
    progress: Progress | None = None,
) -> Adapter:
    """Fills a file of ``size`` bytes."""
    bpw = round(8 * size / adapter.parameters, 4)
    if isinstance(config, Compact):
        recipe = Recipe("compact", min(max(bpw, 1e-4), MAX_BPW), refit=config.refit)
        filled = fill_size(adapter, size, recipe, progress, second_moments).adapter
        return _refitted(adapter, filled, config.refit)
    filled = native(adapter, size=size, moments=second_moments, progress=progress)
    quantized = _refitted(adapter, filled, config.refit)
    over = file_size(quantized) - size
    if over <= 0:
        return quantized
    filled = native(adapter, size=size - over, moments=second_moments)
    return _refitted(adapter, filled, config.refit)


def _refitted(adapter: Adapter, quantized: Adapter, refit: str) -> Adapter:
    if refit == "fit" or quantized.recipe is None:
        return quantized
    recipe = replace(quantized.recipe, refit=refit)
    return replace(make_unbiased(adapter, quantized), recipe=recipe)


def _tuned(
    adapter: Adapter, config: Tuned, second_moments: SecondMoments | None, progress: Progress | None
) -> Adapter:
    from kronq.quantization.distill import TuningSettings, tune

    return tune(
        adapter,
        config.model,
        config.data,
        nbytes_of(config, adapter.parameters),
        TuningSettings(config.steps, config.rate, config.seed),
        moments=second_moments,
        progress=progress,
    )
