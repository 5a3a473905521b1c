"""Fingerprint of the base's adapted weights: by it another base of the same shapes is noticed.

Of each weight a grid of values is taken, at fixed places. They give two things:

- A digest of the values rounded to float16, those below its normal range as zeros. So it is the
  same for a base in float32, bfloat16 or float16, where one was made of the other.
- A sketch of 96 signs of sums of values (SimHash, Charikar 2002): where two weights have the angle
  θ, θ/π of the signs differ on average. Rounding to 4 bits turns a weight by a few degrees, and two
  models that were trained apart stand at right angles, so half of their signs differ.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, MismatchError, StrPath
from kronq.model.layer_names import natural_key

GRID = (8, 512)
"""Rows and columns of a weight that are looked at, at most."""
SIGNS = 96
MOST_SIGNS = 24
"""Signs that may differ in one model, rounded in two ways: an angle of 45° on average."""
_BYTES = 12
_SMALLEST_NORMAL = 2.0**-14
_TEXT = re.compile(r"([0-9a-f]{24}) ([0-9a-f]{24}) (codes|floats) ([0-9]{1,9})")


@dataclass(frozen=True)
class WeightPrint:
    """Fingerprint of one weight.

    Attributes:
        digest: 12 bytes.
        sketch: 96 bits.
        rounded: Whether the base stores the weight as codes.
    """

    digest: bytes
    sketch: bytes
    rounded: bool


@dataclass(frozen=True)
class BaseFingerprint:
    """Fingerprint of the weights that an adapter's layers have in its base.

    Attributes:
        digest: 24 hexadecimal digits.
        sketch: 24 hexadecimal digits.
        rounded: Whether it was taken from a base that stores some of the weights as codes.
        layers: Number of layers.
    """

    digest: str
    sketch: str
    rounded: bool
    layers: int

    @property
    def text(self) -> str:
        """All of it as one line, which ``parse_fingerprint`` reads."""
        kind = "codes" if self.rounded else "floats"
        return f"{self.digest} {self.sketch} {kind} {self.layers}"

    def signs_apart(self, other: BaseFingerprint) -> int:
        """Returns how many of the 96 signs differ."""
        return (int(self.sketch, 16) ^ int(other.sketch, 16)).bit_count()


def parse_fingerprint(text: str) -> BaseFingerprint | None:
    """Returns the fingerprint that ``BaseFingerprint.text`` is of; None of an empty text.

    Raises:
        FormatError: It is of none.
    """
    found = _TEXT.fullmatch(text)
    if found is None and text:
        raise FormatError("no fingerprint of a base", found=text[:80])
    if found is None:
        return None
    digest, sketch, kind, layers = found.groups()
    return BaseFingerprint(digest, sketch, kind == "codes", int(layers))


def grid_places(size: int, most: int) -> NDArray[np.intp]:
    """Returns at most ``most`` places of an axis, evenly from its first one on."""
    count = min(size, most)
    return np.arange(count, dtype=np.intp) * size // count


def print_weight(grid: NDArray[Any], shape: tuple[int, int], *, rounded: bool) -> WeightPrint:
    """Returns the fingerprint of a weight.

    Args:
        grid: Its values at ``grid_places`` of both axes, [rows, cols].
        shape: (d_out, d_in) of the whole weight.
        rounded: Whether the base stores it as codes.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.asarray(grid, dtype=np.float32)
        half = values.astype("<f2")
        half[np.abs(half) < _SMALLEST_NORMAL] = 0
        digest = hashlib.sha256(repr(tuple(map(int, shape))).encode())
        digest.update(np.ascontiguousarray(half).data)
        return WeightPrint(digest.digest()[:_BYTES], _sketch(values.ravel()), rounded)


def _sketch(values: NDArray[np.float32]) -> bytes:
    """Returns the signs of 96 sums, each of every 96th value with a sign of its own."""
    count = -(-len(values) // SIGNS) * SIGNS
    bits = np.frombuffer(hashlib.shake_128(b"kronq").digest(count // 8), dtype=np.uint8)
    signs = 1.0 - 2.0 * np.unpackbits(bits)
    padded = np.zeros(count)
    padded[: len(values)] = values
    sums = (padded * signs).reshape(-1, SIGNS).sum(0)
    return np.packbits(sums >= 0).tobytes()


def join_prints(layers: Mapping[str, WeightPrint]) -> BaseFingerprint:
    """Returns the fingerprint of an adapter's base.

    Args:
        layers: Layer → its weight's. Sign i of the sketch is that of layer ⌊i · layers / 96⌋, in
            natural order of their names.
    """
    prints = [layers[name] for name in sorted(layers, key=natural_key)]
    digest = hashlib.sha256(b"".join(each.digest for each in prints)).digest()[:_BYTES]
    layer_of = np.arange(SIGNS) * len(prints) // SIGNS
    signs = np.array([np.unpackbits(np.frombuffer(p.sketch, np.uint8)) for p in prints])
    sketch = np.packbits(signs[layer_of, np.arange(SIGNS)]).tobytes()
    return BaseFingerprint(
        digest.hex(), sketch.hex(), any(each.rounded for each in prints), len(prints)
    )


def refuse_other_base(
    expected: BaseFingerprint | None, found: BaseFingerprint | None, path: StrPath | None
) -> None:
    """Refuses a base that is not the one which an adapter was calibrated or tested with.

    Nothing is said where either fingerprint is absent, or of other layers. Where both bases store
    floats their digests must agree; where one stores codes, most of the signs must.

    Raises:
        MismatchError: It is another one.
    """
    if expected is None or found is None or expected.layers != found.layers:
        return
    apart = expected.signs_apart(found)
    if expected.digest == found.digest:
        return
    if (expected.rounded or found.rounded) and apart <= MOST_SIGNS:
        return
    kind = "fine-tuned, merged or rounded" if apart <= MOST_SIGNS else "another model"
    raise MismatchError(
        "another base of the same shapes",
        path=path,
        found=f"weights {found.digest}, {apart} of {SIGNS} signs apart: {kind}",
        expected=f"weights {expected.digest}, with which the adapter was calibrated or tested",
        hint="give that base; {other_base=True} goes on with this one",
        code="other-base",
    )
