"""Options of readers, for what a file lacks or has wrong."""

from __future__ import annotations

from dataclasses import dataclass

from kronq.readers.scale_rule import ScaleRule


@dataclass(frozen=True)
class Options:
    """Values that replace those of a file.

    Attributes:
        scale_rule: Replaces the rule of the file's format.
        alpha: Replaces the stored α; raw factors may have none.
    """

    scale_rule: ScaleRule | None = None
    alpha: float | None = None
