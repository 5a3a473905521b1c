"""What a user may tell a reader that the file does not say, or says wrongly."""

from __future__ import annotations

from dataclasses import dataclass

from kronq.readers.scale_rule import ScaleRule


@dataclass(frozen=True)
class Options:
    """Overrides for a reader.

    Attributes:
        scale_rule: Instead of the source's own rule.
        alpha: Instead of the stored α; raw factors may have none.
    """

    scale_rule: ScaleRule | None = None
    alpha: float | None = None
