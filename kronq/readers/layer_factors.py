"""A and B of one layer as its tensors give them, those of convolutions included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq import limits
from kronq.errors import FormatError
from kronq.io.tensors import Tensors
from kronq.model.delta import Product
from kronq.model.matrix import F32, Float
from kronq.readers.known_layers import Kernel


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """A and B of a layer.

    Attributes:
        a: A.
        b: B; of a convolution [b_out, b_in·K], K positions in the kernel.
        rank: The rank that α is divided by; None if no factor was a product.
        kernel: Empty for a linear layer; None where matrices do not tell it: LyCORIS and PEFT
            store the product of a convolution as they store a linear layer's.
        lora: Whether it is a LoRA, of which trainers keep a convolution's dimensions.
    """

    a: Product
    b: Product
    rank: int | None
    kernel: Kernel | None = None
    lora: bool = False


@dataclass(frozen=True)
class Parts:
    """Tensors of one layer.

    Attributes:
        tensors: The file.
        layer: For errors.
        names: Part → tensor name.
    """

    tensors: Tensors
    layer: str
    names: Mapping[str, str]

    def __contains__(self, part: str) -> bool:
        return part in self.names

    def shape(self, part: str) -> tuple[int, ...]:
        return self.tensors.entries[self.names[part]].shape

    def check_numbers(self, part: str) -> None:
        """Refuses a part that is no floating-point matrix, or weight of a convolution."""
        self.tensors.weight(self.names[part])

    def matrix(self, part: str) -> NDArray[Any]:
        """Returns a part as a matrix [rows, columns], which a kernel of size one may follow."""
        shape = self.shape(part)
        if len(shape) > 2 and math.prod(shape[2:]) == 1:
            return self.tensors.weight(self.names[part]).reshape(shape[:2])
        return self.tensors.matrix(self.names[part])

    def flattened(self, part: str) -> tuple[NDArray[Any], Kernel]:
        """Returns a part [rows, columns, *kernel] as [rows, columns·K], and the kernel."""
        weight = self.tensors.weight(self.names[part])
        kernel = weight.shape[2:]
        self.check_kernel(kernel)
        return weight.reshape(weight.shape[0], -1), kernel

    def times_core(self, core: str, right: str, rows: int) -> tuple[F32, Kernel]:
        """Multiplies a Tucker core with the factor of the input channels.

        Args:
            core: Part [r1, r2, *kernel].
            right: Part [r2, columns].
            rows: r1 of the factor of the output channels.

        Returns:
            [r1, columns·K], and the kernel.
        """
        inner = self.matrix(right)
        weight = self.tensors.weight(self.names[core])
        kernel = weight.shape[2:]
        if weight.shape[:2] != (rows, inner.shape[0]):
            raise self.mismatch(f"{core} [{rows}, {inner.shape[0]}, …]", core, right)
        self.check_kernel(kernel)
        flat = weight.reshape(*weight.shape[:2], -1).astype(np.float64)
        product = np.tensordot(flat, inner.astype(np.float64), axes=(1, 0))  # [r1, K, columns]
        whole = product.transpose(0, 2, 1).reshape(rows, -1)
        return np.ascontiguousarray(whole, dtype=np.float32), kernel

    def product(self, left: NDArray[Any], right: NDArray[Any], *names: str) -> Product:
        """Returns left · right.

        Raises:
            FormatError: They do not multiply, or have a rank beyond the limit.
        """
        if left.shape[1] != right.shape[0]:
            raise FormatError(
                f"{' and '.join(names)} do not multiply",
                path=self.tensors.path,
                layer=self.layer,
                found=" and ".join(str(list(self.shape(name))) for name in names),
                expected="the same rank",
                code="factors",
            )
        limits.RANK.check(left.shape[1], self.tensors.path, self.layer)
        return Product(Float(left), Float(right))

    def check_kernel(self, kernel: Kernel) -> None:
        limits.KERNEL.check(math.prod(kernel), self.tensors.path, self.layer)

    def mismatch(self, expected: str, *names: str) -> FormatError:
        """Returns the error of parts that are missing or do not fit each other."""
        present = sorted(name for name in names if name in self.names)
        return FormatError(
            "incomplete or mismatched factors",
            path=self.tensors.path,
            layer=self.layer,
            found=", ".join(f"{name} {list(self.shape(name))}" for name in present),
            expected=expected,
            code="factors",
        )
