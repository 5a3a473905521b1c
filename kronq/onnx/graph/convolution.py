"""How a Conv node reads its input: kernel, strides, padding, dilations and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir


@dataclass(frozen=True)
class Convolution:
    """The geometry of a convolution in one, two or three dimensions.

    Attributes:
        kernel: Sizes of the kernel.
        strides: Of each dimension.
        dilations: Of each dimension.
        pads: Zeros before each dimension, then those behind; not used with ``auto_pad``.
        auto_pad: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
        groups: Groups of channels that do not see each other.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    groups: int = 1

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a linear layer at every position: a kernel of size 1."""
        return set(self.kernel) == {1}

    @property
    def name(self) -> str:
        """A name that two of the same geometry share: ``k3x3_s1x1_d1x1_p1x1x1x1_g1``."""
        numbers = {"k": self.kernel, "s": self.strides, "d": self.dilations, "p": self.pads}
        words = [f"{letter}{'x'.join(map(str, sizes))}" for letter, sizes in numbers.items()]
        words.append(f"g{self.groups}")
        return "_".join([*words, *([] if self.auto_pad == "NOTSET" else [self.auto_pad])])

    def attributes(self, groups: int | None = None) -> dict[str, Any]:
        """Returns the attributes of a Conv node with this geometry.

        Args:
            groups: Its groups, where it has others.
        """
        padding = {"pads": self.pads} if self.auto_pad == "NOTSET" else {"auto_pad": self.auto_pad}
        return {
            "kernel_shape": self.kernel,
            "strides": self.strides,
            "dilations": self.dilations,
            "group": self.groups if groups is None else groups,
            **padding,
        }

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Returns the zeros before and behind each dimension of an input of these sizes."""
        count = len(self.kernel)
        if self.auto_pad == "NOTSET":
            return list(zip(self.pads[:count], self.pads[count:], strict=True))
        if self.auto_pad == "VALID":
            return [(0, 0)] * count
        sides = []
        for size, kernel, stride, dilation in zip(
            sizes, self.kernel, self.strides, self.dilations, strict=True
        ):
            reach = (kernel - 1) * dilation + 1
            total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            less, more = total // 2, total - total // 2
            sides.append((less, more) if self.auto_pad == "SAME_UPPER" else (more, less))
        return sides


def read_convolution(node: ir.Node, weight: Sequence[int]) -> Convolution | None:
    """Reads the geometry of a Conv node.

    Args:
        node: The node.
        weight: Shape of its weight, [d_out, d_in, *kernel].

    Returns:
        None where its attributes do not fit the weight.
    """
    kernel, count = tuple(weight[2:]), len(weight) - 2
    if count < 1:
        return None
    found = Convolution(
        kernel,
        tuple(node.attributes.get_ints("strides", [1] * count)),
        tuple(node.attributes.get_ints("dilations", [1] * count)),
        tuple(node.attributes.get_ints("pads", [0] * 2 * count)),
        node.attributes.get_string("auto_pad", "NOTSET"),
        node.attributes.get_int("group", 1),
    )
    told = tuple(node.attributes.get_ints("kernel_shape", kernel))
    fits = told == kernel and len(found.strides) == len(found.dilations) == count
    fits &= len(found.pads) == 2 * count and found.groups > 0 and weight[0] % found.groups == 0
    return found if fits else None
