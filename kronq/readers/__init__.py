"""Readers of trained adapters, one module per format.

Each has ``detect(path) -> bool`` and ``read(path, options) -> Adapter``; the first whose ``detect``
is true reads the path.
"""

from __future__ import annotations

from types import ModuleType

from kronq.readers import factors, lycoris, peft

READERS: dict[str, ModuleType] = {"peft": peft, "lycoris": lycoris, "factors": factors}
