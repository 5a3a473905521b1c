"""The same input gives the same bytes: with other threads, hash seeds and instructions of NumPy."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from numpy._core import _multiarray_umath as instructions

from tests.paths import ROOT

PROGRAM = """
import hashlib, json
import kronq
from tests import adapters
adapter = adapters.adapter(layers=3)
configs = {
    "fp16": kronq.Float16(),
    "rtn": kronq.Uniform(bits=4, method="rtn"),
    "balanced": kronq.Uniform(bits=3, axis="row"),
    "native": kronq.Native(bits=4),
    "error": kronq.Native(max_error=0.1),
    "compact": kronq.Compact(size=3000),
    "unbiased": kronq.Compact(size=3000, refit="unbiased"),
}
packed = {name: kronq.pack(kronq.quantize(adapter, c)) for name, c in configs.items()}
print(json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in packed.items()}))
"""
OPTIONAL = [
    name for name in instructions.__cpu_dispatch__ if instructions.__cpu_features__.get(name)
]
"""Instructions that NumPy takes on this processor, and can do without."""


def digests(**environment: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_the_same_bytes() -> None:
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    two = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "2"}
    found = digests(**one)
    assert digests(**two) == found
    if OPTIONAL:
        assert digests(NPY_DISABLE_CPU_FEATURES=" ".join(OPTIONAL)) == found


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["Prescott", "Haswell", "SkylakeX"])
def test_the_same_bytes_by_the_kernels_of_another_processor(processor: str) -> None:
    """Likely, as docs/explanation/methods.md says, and so for these adapters."""
    numbers = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if processor == "SkylakeX" and not instructions.__cpu_features__.get("AVX512_SKX"):
        pytest.skip("needs AVX-512")
    if processor == "Haswell" and not instructions.__cpu_features__.get("AVX2"):
        pytest.skip("needs AVX2")
    assert digests(**numbers, OPENBLAS_CORETYPE=processor) == digests(**numbers)
