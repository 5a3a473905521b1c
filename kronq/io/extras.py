"""Optional packages: asked for before any work begins."""

from __future__ import annotations

import importlib.util

from kronq.errors import MissingDependencyError


def require(extra: str, purpose: str, *packages: str) -> None:
    """Refuses when a package is missing, without importing any.

    Args:
        extra: The extra of kronq that brings them.
        purpose: What needs them.
        packages: Import names.

    Raises:
        MissingDependencyError: One of them is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{purpose} needs packages that are not installed",
            found=f"no {', no '.join(missing)}",
            hint=f"pip install 'kronq[{extra}]'",
        )
