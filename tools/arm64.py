"""Makes a Python for ARM that runs here, with a wheel installed in it: `make wheel-arm64`.

Debian's Python for arm64 and its QEMU are taken from the packages that apt downloads, without
installing them: in the folder are the two, what pip installs, and the command ``python``.
onnxruntime needs QEMU 8 or later: 7.2 crashes when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
QEMU = ("amd64", "bookworm-backports", ("qemu-user",))
PYTHON = (
    "arm64",
    "bookworm",
    (
        *("libc6", "libgcc-s1", "libstdc++6", "libpython3.11-minimal", "libpython3.11-stdlib"),
        *("python3.11-minimal", "python3.11", "zlib1g", "libexpat1", "libssl3", "libffi8"),
        *("libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1", "libcrypt1"),
    ),
)
CONFIG = """\
Dir::State "{0}";
Dir::State::status "{0}/status";
Dir::Cache "{0}";
Dir::Etc::SourceParts "{0}/parts";
Dir::Etc::SourceList "{0}/sources.list";
APT::Architecture "{1}";
APT::Architectures {{ "{1}"; }};
APT::Sandbox::User "root";
"""
COMMAND = """\
#!/bin/sh
here={0}
export PYTHONPATH=$here/site
exec $here/{1}/usr/bin/qemu-aarch64 -L $here/{2} $here/{2}/usr/bin/python3.11 "$@"
"""


def unpack(work: Path, root: Path, source: tuple[str, str, tuple[str, ...]]) -> None:
    """Unpacks packages of Debian to a folder; apt's own lists and settings are left alone."""
    architecture, suite, packages = source
    for name in ("lists/partial", "archives/partial", "parts"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    line = f"deb [signed-by={KEYS} arch={architecture}] {MIRROR} {suite} main\n"
    (work / "sources.list").write_text(line)
    (work / "apt.conf").write_text(CONFIG.format(work, architecture))
    env = os.environ | {"APT_CONFIG": str(work / "apt.conf")}
    subprocess.run(["apt-get", "-qq", "update"], check=True, env=env)
    subprocess.run(["apt-get", "-qq", "download", *packages], check=True, env=env, cwd=work)
    for package in sorted(work.glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)


def make(folder: Path, wheel: Path) -> None:
    """Writes the folder, and installs the wheel with what it needs.

    Args:
        folder: A new folder, or one that this program wrote.
        wheel: kronq's wheel.
    """
    folder = folder.absolute()
    python = folder / "python"
    if not python.exists():
        for name, source in (("qemu", QEMU), ("debian", PYTHON)):
            unpack(folder / f"apt-{name}", folder / name, source)
        python.write_text(COMMAND.format(folder, "qemu", "debian"))
        python.chmod(0o755)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "--upgrade", "--target", folder / "site", "pip"], check=True)
    install = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--upgrade"]
    packages = [wheel.absolute(), "onnxruntime-genai", "-c", "constraints.txt"]
    subprocess.run([*install, "--target", folder / "site", *packages], check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
