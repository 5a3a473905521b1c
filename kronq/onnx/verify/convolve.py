"""A convolution by ΔW in numpy, for checks: ``Delta.apply`` on the patches of its input."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from kronq.model.delta import Delta
from kronq.model.matrix import F32
from kronq.onnx.graph.convolution import Convolution

_IMAGES = 2


def image_shape(delta: Delta, conv: Convolution) -> tuple[int, ...]:
    """Returns the shape of an input on which every position of the kernel counts."""
    sizes = (
        (kernel - 1) * dilation + 1 + 2 * stride
        for kernel, dilation, stride in zip(conv.kernel, conv.dilations, conv.strides, strict=True)
    )
    return (_IMAGES, delta.weight_shape[1] * conv.groups, *sizes)


def convolve(delta: Delta, x: F32, conv: Convolution) -> F32:
    """Computes the convolution of x [images, d_in·groups, *sizes] with ΔW.

    Returns:
        [images, d_out, *positions].
    """
    patches = _patches(x, conv)
    images, positions, group = len(x), patches.shape[2:-1], delta.shape[0] // conv.groups
    y = np.concatenate(
        [
            delta.apply(patches[:, j].reshape(images, -1, patches.shape[-1]))[
                ..., j * group : (j + 1) * group
            ]
            for j in range(conv.groups)
        ],
        axis=-1,
    )
    return np.moveaxis(y, -1, 1).reshape(images, delta.shape[0], *positions)


def _patches(x: F32, conv: Convolution) -> F32:
    """Returns [images, groups, *positions, d_in·K]: what the kernel sees at every position."""
    count = len(conv.kernel)
    x = np.pad(x, [(0, 0), (0, 0), *conv.padding(x.shape[2:])])
    reach = [(k - 1) * d + 1 for k, d in zip(conv.kernel, conv.dilations, strict=True)]
    windows = sliding_window_view(x, reach, axis=tuple(range(2, 2 + count)))
    strided = tuple(slice(None, None, stride) for stride in conv.strides)
    dilated = tuple(slice(None, None, dilation) for dilation in conv.dilations)
    windows = windows[(slice(None), slice(None), *strided, *dilated)]
    images, channels, positions = len(x), x.shape[1], windows.shape[2 : 2 + count]
    grouped = windows.reshape(images, conv.groups, -1, *positions, *conv.kernel)
    last = np.moveaxis(grouped, 2, 2 + count)
    width = channels // conv.groups * math.prod(conv.kernel)
    return last.reshape(images, conv.groups, *positions, width)
