"""The core's tests, without torch, on each Python that is found: `.venv/bin/nox`."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False  # they are skipped, with a message

CORE = ("attacks", "formats", "io", "model", "packed", "quantization", "readers", "trellis")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def core(session: nox.Session) -> None:
    """Runs what needs numpy and kronq's own dependencies only."""
    session.install("-c", "constraints.txt", ".", "pytest", "hypothesis")
    folders = [f"tests/{room}" for room in CORE]
    session.run("pytest", "-m", "not slow", *folders, *session.posargs)
