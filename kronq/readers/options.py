"""Options of readers, for what a file lacks or has wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kronq.errors import ArgumentError, StrPath, check_type
from kronq.io.hub import Kind
from kronq.io.input_path import find_input
from kronq.model.layer_expressions import NameMatcher
from kronq.readers.known_layers import Kernel
from kronq.readers.scale_rule import ScaleRule


def parse_conv_kernels(texts: Iterable[str]) -> dict[str, Kernel]:
    """Reads ``REGEX=3x3`` as the command line has it; ``REGEX=1`` is a linear layer.

    Raises:
        ArgumentError: A text is something else.
    """
    kernels: dict[str, Kernel] = {}
    for text in texts:
        expression, _, sizes = text.rpartition("=")
        if not expression or re.fullmatch(r"1|[1-9]\d{0,3}(x[1-9]\d{0,3}){0,2}", sizes) is None:
            raise ArgumentError(
                "not the kernel of a layer", found=text, expected="REGEX=3x3, or REGEX=1 for linear"
            )
        kernels[expression] = () if sizes == "1" else tuple(map(int, sizes.split("x")))
    return kernels


def check_conv_kernels(kernels: Mapping[str, Kernel]) -> None:
    """Refuses a mapping that is not expression → sizes of a kernel.

    Raises:
        ArgumentError: It is something else.
    """
    check_type("conv_kernel", kernels, Mapping)
    for expression, sizes in kernels.items():
        check_type("an expression of conv_kernel", expression, str)
        check_type("a kernel", sizes, tuple, list)
        if len(sizes) > 3 or not all(isinstance(n, int) and 0 < n < 10_000 for n in sizes):
            raise ArgumentError("not a kernel", found=sizes, expected="(3, 3), or () for linear")


@dataclass(frozen=True)
class Options:
    """Values that replace those of a file.

    Attributes:
        scale_rule: Replaces the rule of the file's format.
        alpha: Replaces the stored α; raw factors may have none.
        conv_kernel: Regular expression on a layer's name → the kernel of its convolution, empty
            for a linear layer; for layers whose tensors do not tell it.
        base_weights: Hugging Face folder of the base, whose shapes or weights some adapters need.
        initial: Folder of the adapter as it was before training, which is subtracted.
    """

    scale_rule: ScaleRule | None = None
    alpha: float | None = None
    conv_kernel: Mapping[str, Kernel] = field(default_factory=dict)
    base_weights: Path | None = None
    initial: Path | None = None

    def kernel_of(self, layer: str) -> Kernel | None:
        """Returns the kernel given for a layer, the last that matches; None without one."""
        try:
            found = [k for e, k in self.conv_kernel.items() if self._matcher.matches(e, layer)]
        except ValueError as error:
            raise ArgumentError(f"conv_kernel: {error}") from None
        return found[-1] if found else None

    @cached_property
    def _matcher(self) -> NameMatcher:
        return NameMatcher()


def find_folder(name: str, folder: StrPath | None, kind: Kind) -> Path | None:
    """Returns a folder that an option names; None without one.

    Raises:
        NotFoundError: It does not exist.
        ArgumentError: It is no folder.
    """
    if folder is None:
        return None
    check_type(name, folder, str, os.PathLike)
    found = find_input(folder, kind)
    if not found.is_dir():
        raise ArgumentError(f"{name} is no folder", path=found)
    return found
