"""Names of platforms, and of libraries on them.

The names are those of .NET, which ONNX Runtime's own packages use: ``linux-x64``, ``osx-arm64``.
"""

from __future__ import annotations

import platform
import sys
import sysconfig

SHIPPED = ("linux-x64", "linux-arm64", "osx-x64", "osx-arm64", "win-x64", "win-arm64")
"""Platforms whose libraries kronq's wheel carries."""

_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "i686": "x86", "win32": "x86"}
_PARTS = {"win": ("", ".dll"), "osx": ("lib", ".dylib")}
_ELF = ("lib", ".so")


def this_platform() -> str:
    """Returns the platform of this Python; a Linux without glibc is another one than one with."""
    if sys.platform == "win32":  # platform.machine() names the machine, not its emulation
        return f"win-{_machine(sysconfig.get_platform().removeprefix('win-'))}"
    if sys.platform == "darwin":
        return f"osx-{_machine(platform.machine())}"
    system = sys.platform
    if system == "linux" and platform.libc_ver()[0] != "glibc":
        system = "linux-musl"
    return f"{system}-{_machine(platform.machine())}"


def library_name(name: str, on: str) -> str:
    """Returns the file name of a library on a platform: ``libkronq-linux-x64.so``.

    Args:
        name: Of the library, on all platforms.
        on: The platform.
    """
    before, ending = _PARTS.get(on.partition("-")[0], _ELF)
    return f"{before}{name}-{on}{ending}"


def _machine(found: str) -> str:
    return _MACHINES.get(found.lower(), found.lower())
