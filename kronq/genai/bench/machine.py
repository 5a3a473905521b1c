"""Description of the measuring machine, and the peak memory of this process."""

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
    """Kind of machine; nothing that identifies one.

    Attributes:
        cpu: Processor model, as the system reports it.
        cores: Cores that this process may use.
        system: Operating system and architecture.
        onnxruntime: Version of onnxruntime.
    """

    cpu: str
    cores: int
    system: str
    onnxruntime: str


def describe_machine() -> Machine:
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
    """Returns the peak memory of this process; None where the system does not report it.

    On Linux getrusage does not serve: there a child's peak starts at its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text("ascii").splitlines()
        peak_kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
        return None if peak_kib is None else int(peak_kib) * 1024
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
