"""Kernels of convolutions whose tensors are all matrices, as LoKr's and LoHa's products are.

Their columns are channels times positions in the kernel, and nothing in them tells one from the
other. The caller's kernels do, or the base, or the table of known models, checked against the
shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from kronq.errors import FormatError, MismatchError, UnsupportedError, listing
from kronq.io.base_weights import BaseWeights, open_base
from kronq.readers.known_layers import Kernel
from kronq.readers.known_paths import known_layer
from kronq.readers.layer_factors import LayerFactors
from kronq.readers.options import Options

_CONVOLUTION = re.compile(
    r"(^|[._])(conv(olution)?\d*d?(_(in|out|shortcut|dw|pw))?"
    r"|(patch_embed(ding)?s?|patchify|stem)([._]proj(ection)?)?|(down|up)samplers?([._]\d+)?)$"
)
"""Names of convolutions of models that the table does not have."""
_SQUARE = re.compile(r"(resnets[._]\d+[._]conv2|(down|up)samplers[._]\d+[._]conv)$")
"""Convolutions that have as many input channels as output channels in every known model."""
_POINTWISE = re.compile(
    r"(attentions[._]\d+|(input|output)_blocks[._]\d+[._]\d+|middle_block[._]\d+)[._]proj_(in|out)$"
)
"""Linear layers that some models have as convolutions of size one, which are the same product."""
_POINTWISE_BASES = re.compile(r"sd_v1|sd_1|stable-diffusion-v1", re.IGNORECASE)


def complete_kernels(
    factors: Mapping[str, LayerFactors],
    path: Path | None,
    options: Options,
    base: str | None = None,
) -> dict[str, Kernel]:
    """Returns the kernel of every layer, where its tensors do not tell it by other means.

    Args:
        factors: Layer → its factors.
        path: For errors.
        options: Kernels that the caller gives, by expressions on names.
        base: The base's name, if the file has it.

    Raises:
        FormatError: A given kernel does not fit a layer's shape.
        MismatchError: A layer has another shape in the base.
        UnsupportedError: Layers look like convolutions, and nothing tells their kernels.
    """
    base_weights = None if options.base_weights is None else open_base(options.base_weights)
    of_base = frozenset() if base_weights is None else frozenset(base_weights.layers)
    told = {name: layer.kernel for name, layer in factors.items() if layer.kernel is not None}
    pointwise = _pointwise_kernel(told, base or "")
    kernels: dict[str, Kernel] = {}
    unknown = []
    for name, layer in factors.items():
        kernel = layer.kernel
        if kernel is None:
            kernel = _given_kernel(name, layer, options, path)
        if kernel is None and base_weights is not None and name in of_base:
            kernels[name] = _base_kernel(name, layer, base_weights)
            continue
        if kernel is None:
            kernel = _known_kernel(name, layer)
        if kernel is None:
            unknown.append(name)
        else:
            kernels[name] = pointwise if kernel == () and _POINTWISE.search(name) else kernel
    if unknown:
        raise UnsupportedError(
            "convolutions whose kernels nothing in the file tells",
            path=path,
            found=listing(unknown),
            expected="layers of a model that kronq knows",
            hint="{base_weights} names the base's folder; or "
            f"{{conv_kernel={unknown[0].rpartition('.')[2]}=3x3}} gives them, 1 is linear",
        )
    return kernels


def _given_kernel(
    name: str, layer: LayerFactors, options: Options, path: Path | None
) -> Kernel | None:
    """Returns the kernel that the caller gives for a layer."""
    given = options.kernel_of(name)
    if given is not None and layer.b.shape[1] % math.prod(given):
        raise FormatError(
            "the given kernel does not fit the layer",
            path=path,
            layer=name,
            found="×".join(map(str, given)),
            expected=f"a divisor of the {layer.b.shape[1]} columns of a factor",
        )
    return given


def _base_kernel(name: str, layer: LayerFactors, base: BaseWeights) -> Kernel:
    """Returns the kernel of the base's layer.

    Raises:
        MismatchError: The layer has another shape.
    """
    rows, *rest = base.whole_shape(name)
    found = [layer.a.shape[0] * layer.b.shape[0], layer.a.shape[1] * layer.b.shape[1]]
    if found != [rows, math.prod(rest)]:
        raise MismatchError(
            "the base's layer has another shape",
            path=base.folder,
            layer=name,
            found=found,
            expected=[rows, *rest],
            code="shape",
        )
    return tuple(rest[1:])


def _known_kernel(name: str, layer: LayerFactors) -> Kernel | None:
    """Returns the kernel that known models have for a layer; None where that is not certain."""
    known = known_layer(name)
    if known is None:
        looks_linear = layer.lora or _CONVOLUTION.search(name) is None
        return () if looks_linear else None
    kernel = known.kernel
    if kernel is None or layer.b.shape[1] % math.prod(kernel):
        return None
    channels = layer.a.shape[1] * layer.b.shape[1] // math.prod(kernel)
    if _SQUARE.search(name) and channels != layer.a.shape[0] * layer.b.shape[0]:
        return None
    return kernel


def _pointwise_kernel(told: Mapping[str, Kernel], base: str) -> Kernel:
    """Returns the kernel of this model's ``proj_in``: that of a whole one, or of its base."""
    found = {kernel for name, kernel in told.items() if _POINTWISE.search(name)}
    if len(found) == 1:
        return found.pop()
    return (1, 1) if _POINTWISE_BASES.search(base) else ()
