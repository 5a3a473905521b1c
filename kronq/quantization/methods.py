"""A float adapter in, a quantized adapter out: presets over three choices.

Which error counts (``moments``: plain without them), which codes (``method``), and what is refitted
afterwards (``refit``) do not know of each other.

Methods:
    ``fp16``: every factor rounded to float16; what the others are measured against.
    ``rtn``: plain rounding per channel, as trained: the baseline everyone understands.
    ``balanced``: scales fitted by squared error, in the better, measured, of the gauge as trained
        and the SVD-balanced gauge rotated to equal energy.
    ``native``: a width for each channel, with error feedback, that nothing need decode.
    ``compact``: entropy-coded levels of one step, the smallest file of a given error.
    ``auto``: ``native`` for whole widths, ``compact`` for a size, an error or any other bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, get_args

from kronq.errors import ArgumentError
from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import Delta
from kronq.model.second_moments import Moments
from kronq.quantization.compact.size_budget import fill
from kronq.quantization.compact.unbiased import unbiased
from kronq.quantization.error_budget import MOST_BITS, smallest_within_error
from kronq.quantization.file_size import file_size
from kronq.quantization.mixed.native import native
from kronq.quantization.uniform.layer import quantize_layer

Method = Literal["auto", "native", "compact", "balanced", "rtn", "fp16"]
Axis = Literal["component", "row"]
Refit = Literal["fit", "unbiased"]
BITS = (16, 8, 4, 3, 2)
SIZED = ("native", "compact")
"""Methods that fill any size."""

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all): of layers, or of passes over all of them."""

_USUAL = 4


def quantize(
    adapter: Adapter,
    bits: float | None = None,
    *,
    method: Method = "auto",
    size: int | None = None,
    max_error: float | None = None,
    axis: Axis = "component",
    group_size: int | None = None,
    a_bits: int = 16,
    layer_bits: Mapping[str, int] | None = None,
    moments: Moments | None = None,
    refit: Refit = "fit",
    progress: Progress | None = None,
) -> Adapter:
    """Quantizes every layer.

    Args:
        adapter: As it was trained.
        bits: Of B's codes: 8, 4, 3 or 2; 16 leaves float16; 4 if nothing else is asked for.
            ``compact``: of the whole file, by parameter; any number up to 12. ``native``: of its
            codes on average.
        method: See this module; ``auto`` picks by what is asked for.
        size: Instead of ``bits``: the bytes of the file, header included; never more, and less by
            1 % at the most. ``native`` and ``compact`` only.
        max_error: Instead of ``bits``: the smallest file whose ‖ΔW − ΔŴ‖ / ‖ΔW‖ is at most this.
            ``native`` and ``compact`` only.
        axis: ``component`` for a scale per rank component, ``row`` for one per row of each factor.
            This and the next three for ``balanced`` and ``rtn`` only.
        group_size: Codes that share a scale; None for a whole channel.
        a_bits: Of A, which is small and stays float16 unless asked for.
        layer_bits: Regular expression on the layer's name → bits; the last that matches wins.
        moments: What calibration saw: errors count as E‖(ΔW − ΔŴ)·x‖², not as ‖ΔW − ΔŴ‖².
            ``native`` and ``compact`` only.
        refit: ``fit`` leaves the least squared error; ``unbiased`` then stretches ΔŴ, which that
            shrinks, until ⟨ΔW, ΔŴ⟩ = ‖ΔW‖²: more error, and at few bits much less lost of a task.
        progress: Called with (steps done, steps in all).

    Raises:
        KronqError: A setting is out of range or not for this method, ``layer_bits`` matches no
            layer, the adapter is quantized already, or it does not fit.
        FormatError: A layer has values that are not finite.
    """
    if adapter.recipe is not None and adapter.recipe.method != "fp16":
        raise ArgumentError(
            "the adapter is quantized already",
            path=adapter.origin.path,
            found=f"{adapter.recipe.method} at {adapter.recipe.bits} bits",
            hint="quantize the adapter as it was trained",
        )
    budgets = {"bits": bits, "size": size, "max_error": max_error}
    if sum(value is not None for value in budgets.values()) > 1:
        given = ", ".join(name for name, value in budgets.items() if value is not None)
        raise ArgumentError("one budget at a time", found=given, expected="bits, size or max_error")
    layer_bits = dict(layer_bits or {})
    own = (axis, group_size, a_bits, layer_bits) != ("component", None, 16, {})
    method = pick(method, bits, sized=size is not None or max_error is not None, uniform=own)
    recipe = Recipe(
        method, _USUAL if bits is None else bits, axis, group_size, a_bits, layer_bits, refit=refit
    )
    _check(recipe)
    if method not in SIZED:
        if size is not None or max_error is not None:
            raise ArgumentError(
                f"{method} has fixed widths, and fills no size or error",
                expected=" or ".join(SIZED),
            )
        if moments is not None:
            raise ArgumentError(f"{method} knows no calibration", expected=" or ".join(SIZED))
        return _refitted(adapter, _uniform(adapter, recipe, progress), recipe)
    if own:
        raise ArgumentError(
            f"{method} codes have no axis, group size or widths of their own",
            hint="every channel gets the bits that it is worth; {method=balanced} has them",
        )
    if max_error is not None:
        return smallest_within_error(
            adapter, max_error, lambda n: _sized(adapter, recipe, n, moments), progress
        )
    if size is None and method == "native":
        found = native(adapter, recipe.bits, moments=moments, progress=progress)
        return _refitted(adapter, found, recipe)
    nbytes = int(recipe.bits * adapter.parameters / 8) if size is None else size
    return _sized(adapter, recipe, nbytes, moments, progress)


def pick(method: str, bits: float | None, *, sized: bool, uniform: bool) -> Method:
    """The method that ``auto`` stands for.

    Args:
        method: Any; all but ``auto`` stay.
        bits: As asked for.
        sized: Whether a size or an error is asked for.
        uniform: Whether something is asked for that only ``balanced`` and ``rtn`` have.

    Raises:
        KronqError: No such method.
    """
    if method not in get_args(Method):
        raise ArgumentError("no such method", found=method, expected=", ".join(get_args(Method)))
    if method != "auto":
        return method  # type: ignore[return-value]
    if uniform:
        return "balanced"
    if bits == 16:
        return "fp16"
    return "compact" if sized or (bits is not None and bits not in BITS) else "native"


def _uniform(adapter: Adapter, recipe: Recipe, progress: Progress | None) -> Adapter:
    for expression in recipe.layer_bits:
        if not any(re.search(expression, name) for name in adapter):
            raise ArgumentError("the layer expression matches no layer", found=repr(expression))
    if recipe.method == "fp16":
        recipe = Recipe("fp16", 16)
    # One thread: the matrices are small, and two only wait for each other (measured).
    layers: dict[str, Delta] = {}
    for name, delta in adapter.items():
        layers[name] = quantize_layer(name, delta, recipe)
        if progress is not None:
            progress(len(layers), len(adapter))
    return replace(adapter, layers=layers, recipe=recipe)


def _sized(
    adapter: Adapter,
    recipe: Recipe,
    size: int,
    moments: Moments | None,
    progress: Progress | None = None,
) -> Adapter:
    """A file of ``size`` bytes."""
    bits = round(8 * size / adapter.parameters, 4)
    if recipe.method == "native":
        filled = native(adapter, size=size, moments=moments, progress=progress)
        found = _refitted(adapter, filled, recipe)
        over = file_size(found) - size
        if over <= 0:
            return found
        return _refitted(adapter, native(adapter, size=size - over, moments=moments), recipe)
    if not 0 < bits <= MOST_BITS:
        raise ArgumentError(
            "compact codes of so many bits a parameter",
            found=f"{bits:g}",
            expected=f"more than 0, at most {MOST_BITS}",
        )
    recipe = replace(recipe, bits=bits)
    return _refitted(adapter, fill(adapter, size, recipe, progress, moments), recipe)


def _refitted(adapter: Adapter, quantized: Adapter, recipe: Recipe) -> Adapter:
    if recipe.refit == "fit" or quantized.recipe is None:
        return quantized
    told = replace(quantized.recipe, refit=recipe.refit)
    return replace(unbiased(adapter, quantized), recipe=told)


def _check(recipe: Recipe) -> None:
    if recipe.method not in SIZED:
        for name, bits in (
            ("bits", recipe.bits),
            ("a_bits", recipe.a_bits),
            *recipe.layer_bits.items(),
        ):
            if bits not in BITS:
                raise ArgumentError(f"{name}: no such width", found=repr(bits), expected=BITS)
    for name, value, allowed in (
        ("axis", recipe.axis, get_args(Axis)),
        ("refit", recipe.refit, get_args(Refit)),
    ):
        if value not in allowed:
            raise ArgumentError(f"no such {name}", found=value, expected=", ".join(allowed))
    if recipe.group_size is not None and recipe.group_size < 2:
        raise ArgumentError(
            "group_size is too small", found=recipe.group_size, expected="2 or more"
        )
    for expression in recipe.layer_bits:
        try:
            re.compile(expression)
        except re.error as error:
            raise ArgumentError(f"bad layer expression {expression!r}: {error}") from None
