"""Trained adapters in: one file per layout, one registry.

A source has ``detect(path) -> bool`` and ``read(path, options) -> Adapter``; the first that
recognises a path reads it.
"""

from __future__ import annotations

from types import ModuleType

from kronq.readers import factors, lycoris, peft

SOURCES: dict[str, ModuleType] = {"peft": peft, "lycoris": lycoris, "factors": factors}
