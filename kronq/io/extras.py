"""Optional packages, checked before any work begins."""

from __future__ import annotations

import importlib.util

from kronq.errors import MissingDependencyError


def require(extra: str, purpose: str, *packages: str) -> None:
    """Checks that packages are installed, without importing them.

    Args:
        extra: Extra of kronq that installs them.
        purpose: Feature that needs them, for the error.
        packages: Import names.

    Raises:
        MissingDependencyError: Some of them are not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{purpose} needs packages that are not installed",
            found=f"no {', no '.join(missing)}",
            hint=f"pip install 'kronq[{extra}]'",
        )
