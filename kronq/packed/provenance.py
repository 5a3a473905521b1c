"""Where a packed adapter comes from, and which base it was calibrated or tested with.

Nothing in it depends on a path or on the time, so that the same adapter gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path

from kronq import __version__
from kronq.model.adapter import Adapter, Provenance
from kronq.model.base_fingerprint import BaseFingerprint
from kronq.packed.manifest import BaseWeightsSpec, ProvenanceSpec

FEWEST_PARAMETERS = 2**16
"""Trained weights below which an adapter's file, of 8 kB at a bit each, has none: 140 bytes."""
_DIGEST_BYTES = 12


def provenance_of(adapter: Adapter, calibration: str | None = None) -> Provenance | None:
    """Returns what an adapter's file tells of its source; None for one too small to tell.

    Args:
        adapter: As it was read. One of a packed file keeps what that tells.
        calibration: Digest of the second moments that it is quantized by, in hexadecimal.
    """
    if adapter.provenance is not None or adapter.parameters < FEWEST_PARAMETERS:
        return adapter.provenance
    origin = adapter.origin
    return Provenance(
        origin.format,
        None if origin.tensors is None else _digest_file(origin.tensors),
        origin.scale_rule,
        calibration and calibration[: 2 * _DIGEST_BYTES],
        __version__,
    )


def _digest_file(path: Path) -> str | None:
    """Returns the first half of a file's SHA-256, in hexadecimal; None if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _digest_version(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _digest_version(path: Path, _time: int, _size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[: 2 * _DIGEST_BYTES]


def to_spec(provenance: Provenance | None) -> ProvenanceSpec | None:
    """Returns the manifest's form, whose digests are shorter."""
    if provenance is None:
        return None
    return ProvenanceSpec(
        format=provenance.format,
        source=provenance.source and _shorten(provenance.source),
        scale_rule=provenance.scale_rule,
        calibration=provenance.calibration and _shorten(provenance.calibration),
        kronq=provenance.kronq,
    )


def from_spec(spec: ProvenanceSpec | None) -> Provenance | None:
    """Returns what a manifest tells."""
    if spec is None:
        return None
    return Provenance(
        spec.format,
        spec.source and _lengthen(spec.source),
        spec.scale_rule,
        spec.calibration and _lengthen(spec.calibration),
        spec.kronq,
    )


def describe_base(adapter: Adapter) -> BaseWeightsSpec | None:
    """Returns the manifest's form of the base's fingerprint, if it is of all the layers."""
    base = adapter.base
    if base is None or base.layers != len(adapter):
        return None
    digest, sketch = _shorten(base.digest), _shorten(base.sketch)
    return BaseWeightsSpec(digest=digest, sketch=sketch, rounded=base.rounded)


def read_base(spec: BaseWeightsSpec | None, layers: int) -> BaseFingerprint | None:
    """Returns the base's fingerprint that a manifest tells."""
    if spec is None:
        return None
    return BaseFingerprint(_lengthen(spec.digest), _lengthen(spec.sketch), spec.rounded, layers)


def _shorten(digest: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(digest)).decode()


def _lengthen(text: str) -> str:
    return base64.urlsafe_b64decode(text).hex()
