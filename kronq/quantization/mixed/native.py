"""Native codes of the least error in a number of bytes: a width for each channel.

Per layer the gauge as trained or the principal one; per channel the bits that save most error per
byte (``allocation``); codes with error feedback, each factor fitted to what the other became, and
scales by least squares (``pairs``). Only the product of a component's scales matters, so B1 carries
them all, and A's too: B2 and a small A are whole numbers and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from kronq.errors import FormatError, KronqError
from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import Delta
from kronq.model.objective import moment_of
from kronq.model.second_moments import Moments
from kronq.quantization.layer_overrides import check_overrides
from kronq.quantization.mixed import whole_matrices as wholes
from kronq.quantization.mixed.allocation import Choice, Option, choose, joined
from kronq.quantization.mixed.factor_pairs import Pair, options, rounded
from kronq.quantization.mixed.layer_batches import Batch, batches_of, chunks, costs
from kronq.quantization.mixed.planes import (
    Rounded,
    blank,
    codes_size,
    file_size,
    layers_of,
    padding,
    small_as,
    usual_size,
)
from kronq.quantization.uniform.layer import quantize_layer

Progress = Callable[[int, int], None]

_FINE = 5.5
"""Bits a parameter from which a small A as int8 would show in the error."""
_TRIES = 8
_NEAR = 16
"""Bytes below the limit that are near enough to it."""


def native(
    adapter: Adapter,
    bits: float = 4,
    *,
    size: int | None = None,
    overrides: Mapping[str, int] | None = None,
    moments: Moments | None = None,
    progress: Progress | None = None,
) -> Adapter:
    """Quantizes every layer to codes that need no decoding.

    Args:
        adapter: As it was trained.
        bits: The file is at most as large as that of ``balanced`` with so many bits: codes of
            ``bits`` bits on average, their scales and A beside them. (Where a header weighs more
            than that leaves, the codes still have their bits.)
        size: Instead, the bytes of the file, header included.
        overrides: Regular expression, searched in a layer's name → bits of the layers that match;
            the last that matches wins. Layers of one width share the bytes that ``bits`` of that
            width would give them alone; 16 leaves float16. Not with ``size``.
        moments: What calibration saw; the error is then that of the layers' outputs.
        progress: Called with (layers done, layers in all).

    Raises:
        KronqError: The size cannot be reached, calibration did not see a layer, or an override
            matches no layer, asks for no width there is, or comes with ``size``.
        FormatError: A layer has values that are not finite.
    """
    _check(adapter, moments)
    if not overrides:
        return _allocated(adapter, bits, size, moments, progress)
    check_overrides(adapter, overrides)
    if size is not None:
        raise KronqError("a file of a given size has no widths for single layers")
    recipe = replace(_recipe(adapter, bits), layer_bits=dict(overrides))
    names_by_width: dict[float, list[str]] = {}
    for name in adapter:
        names_by_width.setdefault(recipe.bits_for(name), []).append(name)
    layers: dict[str, Delta] = {}
    for width, names in names_by_width.items():
        part = replace(adapter, layers={name: adapter[name] for name in names})
        if width == 16:
            float16 = Recipe("fp16", 16)
            layers |= {name: quantize_layer(name, part[name], float16) for name in names}
        else:
            report = None if progress is None else _offset(progress, len(layers), len(adapter))
            layers |= _allocated(part, width, None, moments, report).layers
    return replace(adapter, layers={name: layers[name] for name in adapter}, recipe=recipe)


def _offset(progress: Progress, before: int, total: int) -> Progress:
    """Progress of some layers as progress of all of them."""
    return lambda done, _: progress(before + done, total)


def _recipe(adapter: Adapter, bits: float) -> Recipe:
    a_bits = 16 if bits > _FINE or adapter.family == "lora" else 8
    return Recipe("native", bits, a_bits=a_bits)


def _allocated(
    adapter: Adapter,
    bits: float,
    size: int | None,
    moments: Moments | None,
    progress: Progress | None,
) -> Adapter:
    """Codes of the least error in the bytes of ``bits``, or of ``size``, for all layers at once."""
    if size is not None:
        bits = min(16.0, round(8 * size / adapter.parameters, 4))
    recipe = _recipe(adapter, bits)
    batches, stored = batches_of(adapter), small_as(adapter, fine=bits > _FINE)

    def built(coded: Mapping[tuple[str, str], Rounded]) -> Adapter:
        return replace(adapter, layers=layers_of(adapter, stored, coded), recipe=recipe)

    def sized(chosen: list[Choice]) -> int:
        return file_size(built(_blank(batches, adapter, chosen)))

    empty = built(_blank(batches, adapter))
    least = file_size(empty) - padding(empty)
    limit = float(usual_size(adapter, bits) if size is None else size)
    room = int(limit) - least
    if size is None and room < codes_size(adapter, bits):
        # Where the header weighs more than codes do, it is not they that pay for it.
        room, limit = codes_size(adapter, bits), math.inf
    judged = [_judged(batch, adapter, moments) for batch in batches]
    aim = limit
    for _ in range(_TRIES):
        chosen = _chosen([found for _, found in judged], room, aim, sized)
        coded: dict[tuple[str, str], Rounded] = {}
        for batch, (pairs, _), choice in zip(batches, judged, chosen, strict=True):
            coded |= _coded(batch, pairs, choice, adapter, moments)
            if progress is not None:
                progress(len({name for name, _ in coded}), len(adapter))
        found = built(coded)
        over = file_size(found) - limit
        if over <= 0:
            break
        aim -= over
    return found


def _chosen(
    judged: list[list[Option]], room: int, limit: float, sized: Callable[[list[Choice]], int]
) -> list[Choice]:
    """The choice that fills the file, whose header depends on it a little.

    Raises:
        KronqError: There is no room for any.
    """
    best: list[Choice] | None = None
    for _ in range(_TRIES):
        if room < 0:
            break
        chosen = choose(judged, room)
        over = sized(chosen) - limit
        if over <= 0:
            best = chosen
            if over > -_NEAR:
                break
        if math.isinf(limit):
            break
        room -= int(over) + _NEAR // 2
    if best is None:
        raise KronqError(
            "the size is too small for native codes",
            found=f"{limit:,} bytes",
            expected=f"at least {limit - room:,}",
            hint="compact codes need fewer",
        )
    return best


def _blank(
    batches: list[Batch], adapter: Adapter, chosen: list[Choice] | None = None
) -> dict[tuple[str, str], Rounded]:
    """Codes of these widths, or of none, that weigh in the file what the real ones will."""
    found = {}
    for i, batch in enumerate(batches):
        for at, name in enumerate(batch.names):
            widths = None if chosen is None else tuple(w[at] for w in chosen[i].widths)
            product = adapter[name].b if batch.role == "B" else adapter[name].a
            found[name, batch.role] = blank(product, widths)
    return found


def _check(adapter: Adapter, moments: Moments | None) -> None:
    for name, delta in adapter.items():
        if not all(np.isfinite(m.float32()).all() for m in delta.matrices):
            raise FormatError("the layer has values that are not finite", layer=name)
        if moments is not None:
            moment_of(moments, name)


def _judged(
    batch: Batch, adapter: Adapter, moments: Moments | None
) -> tuple[list[Pair], list[Option]]:
    """The gauges of a batch (of whole matrices none), and what their channels cost."""
    parts: list[tuple[list[Pair], list[Option]]] = []
    for _, part in chunks(batch, moments):
        left, right = costs(part, adapter, moments)
        if part.right is None:
            parts.append(([], [wholes.option(part.left, left, right)]))
        else:
            parts.append(options(Pair(part.left, part.right), left, right))
    pairs = [
        Pair(np.concatenate([p.left for p in each]), np.concatenate([p.right for p in each]))
        for each in zip(*(pairs for pairs, _ in parts), strict=True)
    ]
    return pairs, [joined(each) for each in zip(*(found for _, found in parts), strict=True)]


def _coded(
    batch: Batch, pairs: list[Pair], choice: Choice, adapter: Adapter, moments: Moments | None
) -> dict[tuple[str, str], Rounded]:
    """The codes of a batch: (layer, role) → what it became."""
    found: dict[tuple[str, str], Rounded] = {}
    for at, part in chunks(batch, moments):
        left, right = costs(part, adapter, moments)
        widths = tuple(each[at] for each in choice.widths)
        if part.right is None:
            rounding = wholes.rounded(part.left, widths[0], left, right)
        else:
            chosen = choice.option[at]
            every = np.arange(len(part.names))
            pair = Pair(
                np.stack([p.left[at] for p in pairs])[chosen, every],
                np.stack([p.right[at] for p in pairs])[chosen, every],
            )
            rounding = rounded(pair, (widths[0], widths[1]), left, right)
        for i, name in enumerate(part.names):
            found[name, batch.role] = Rounded(
                tuple(c[i] for c in rounding.codes),
                tuple(w[i] for w in widths),
                rounding.scale[i],
                tuple(int(c[i]) for c in rounding.clipped),
            )
    return found
