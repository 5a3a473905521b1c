"""What a figure was measured on, and how much memory this process has taken."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":
    import resource


@dataclass(frozen=True)
class Machine:
    """The class of a machine, not its name.

    Attributes:
        cpu: Its model, as the system tells it.
        cores: Cores that this process may use.
        system: Operating system and architecture.
        onnxruntime: Its version.
    """

    cpu: str
    cores: int
    system: str
    onnxruntime: str


def this_machine() -> Machine:
    import onnxruntime as ort

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return Machine(
        cpu=_cpu_model() or platform.processor() or platform.machine(),
        cores=cores,
        system=f"{platform.system()} {platform.machine()}",
        onnxruntime=ort.__version__,
    )


def _cpu_model() -> str | None:
    table = Path("/proc/cpuinfo")
    lines = table.read_text("utf-8").splitlines() if table.is_file() else []
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), None)


def peak_bytes() -> int | None:
    """The most memory that this process has had at once; None where the system does not tell.

    On Linux not by getrusage: a child's maximum begins at its parent's there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text("ascii").splitlines()
        found = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
        return None if found is None else int(found) * 1024
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
