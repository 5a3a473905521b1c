"""Packed files with random faults are read or refused, and nothing else happens.

Checksums, which would notice every fault, are not compared: whoever attacks can compute them.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kronq
from kronq.errors import KronqError
from kronq.packed import locate, pack_adapter
from kronq.report.summary import summarize
from tests import adapters
from tests.attacks import hostile
from tests.attacks import test_widths as widths
from tests.formats.contents import golden
from tests.fuzzing import max_examples

NATIVE = 0
GOOD = {bits: hostile.good(bits) for bits in (16, 8, 4, 3)} | {NATIVE: widths.GOOD}
HEADER = {bits: 8 + int.from_bytes(data[:8], "little") for bits, data in GOOD.items()}


def attempt(data: bytes) -> None:
    """Reads the file and every value in it, unless it is refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        path.write_bytes(data)
        try:
            adapter = kronq.load(path, verify=False)
        except KronqError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
        locate(path, verify=False)
        summarize(adapter)
        for delta in adapter.values():
            assert all(m.float32().shape == m.shape for m in delta.matrices)
            with np.errstate(all="ignore"):
                delta.apply(np.ones((1, delta.shape[1]), np.float32))


@max_examples(250)
@given(data=st.data(), bits=st.sampled_from(sorted(GOOD)))
def test_flipped_bits(data: st.DataObject, bits: int) -> None:
    """Flips a few bits, most in the header."""
    file = bytearray(GOOD[bits])
    positions = st.integers(0, HEADER[bits] - 1) | st.integers(0, len(file) - 1)
    for position, bit in data.draw(
        st.lists(st.tuples(positions, st.integers(0, 7)), min_size=1, max_size=4)
    ):
        file[position] ^= 1 << bit
    attempt(bytes(file))


@max_examples(150)
@given(data=st.data(), bits=st.sampled_from(sorted(GOOD)))
def test_bytes_replaced_cut_and_put_in(data: st.DataObject, bits: int) -> None:
    file = GOOD[bits]
    start = data.draw(st.integers(0, HEADER[bits]) | st.integers(0, len(file)))
    length = data.draw(st.integers(0, 20))
    piece = data.draw(st.binary(max_size=20) | st.sampled_from([b"9" * 20, b"{", b'"', b"[" * 20]))
    changed = file[:start] + piece + file[start + length :]
    # With the header's length corrected, so that its content is read.
    grown = HEADER[bits] - 8 + (len(piece) - length if start >= 8 else 0)
    if start + length <= HEADER[bits] and grown >= 0:
        changed = grown.to_bytes(8, "little") + changed[8:]
    attempt(changed)


@max_examples(150)
@given(data=st.data())
def test_values_of_the_manifest_replaced(data: st.DataObject) -> None:
    """Replaces any value by any JSON."""
    anything = st.recursive(
        st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["shape", "bits", "layers", "A"]), inner, max_size=3)
        ),
        max_leaves=5,
    )

    def change(manifest: object) -> None:
        while True:
            assert isinstance(manifest, dict | list)
            keys = list(manifest) if isinstance(manifest, dict) else range(len(manifest))
            key = data.draw(st.sampled_from(keys)) if len(keys) else None
            inner = manifest[key] if key is not None else None  # type: ignore[index, call-overload]
            if not inner or not isinstance(inner, dict | list) or data.draw(st.booleans()):
                if key is not None:
                    manifest[key] = data.draw(anything)  # type: ignore[index, call-overload]
                return
            manifest = inner

    attempt(hostile.with_manifest(change))  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", sorted(GOOD))
def test_every_way_to_cut_it(bits: int) -> None:
    """Cuts the file at each byte near its ends, and through the payload."""
    file = GOOD[bits]
    for size in {*range(12), *range(12, len(file), 97), *range(len(file) - 9, len(file))}:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.safetensors")
            path.write_bytes(file[:size])
            with pytest.raises(KronqError):
                kronq.load(path, verify=False)


COMPACT = [
    pack_adapter(kronq.quantize(adapters.adapter(layers=2), kronq.Compact(size=1600))),
    pack_adapter(golden()["layer_steps"]),
]


@max_examples(200)
@given(data=st.data(), index=st.sampled_from(range(len(COMPACT))))
def test_flipped_bits_of_compact_codes(data: st.DataObject, index: int) -> None:
    """Flips bits of streams, which may be refused as late as when they are decoded."""
    file = bytearray(COMPACT[index])
    stream = 8 + int.from_bytes(file[:8], "little")
    positions = st.integers(0, len(file) - 1) | st.integers(stream, len(file) - 1)
    for position, bit in data.draw(
        st.lists(st.tuples(positions, st.integers(0, 7)), min_size=1, max_size=3)
    ):
        file[position] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        path.write_bytes(bytes(file))
        with contextlib.suppress(KronqError):
            for delta in kronq.load(path, verify=False).values():
                assert all(m.float32().shape == m.shape for m in delta.matrices)
