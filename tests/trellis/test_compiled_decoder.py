"""The decoder in C gives what constriction's gives, or refuses with the same words."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import kronq
from kronq.compiled import library
from kronq.compiled.library import PROGRAM, SWITCH
from kronq.trellis import compiled_decoder
from kronq.trellis.coded_matrix import EntropyCoded
from kronq.trellis.range_coder import encode_runs
from kronq.trellis.range_decoder import decode_runs
from kronq.trellis.stream_layout import Run
from tests.fuzzing import max_examples
from tests.trellis.test_range_coder import levels_of_path, random_codes

GOLDEN = Path(__file__).parents[2] / "formats" / "golden"
PARTS = st.lists(st.tuples(st.integers(-40, 70), st.integers(1, 700)), max_size=5)
COUNTS = st.lists(st.integers(0, 60), max_size=3)

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")


def outcome(data: bytes, counts: Sequence[int], runs: Sequence[Run]) -> list[object]:
    """Returns everything that decoding gives, or the error."""
    seen: list[NDArray[np.int32]] = []

    def runs_of(numbers: list[NDArray[np.int32]]) -> Sequence[Run]:
        seen.extend(numbers)
        return runs

    try:
        levels = decode_runs(data, counts, runs_of)
    except ValueError as error:
        return [str(error)]
    return [(each.dtype, each.tobytes()) for each in (*seen, levels)]


def assert_both_alike(data: bytes, counts: Sequence[int], runs: Sequence[Run]) -> list[object]:
    by_c = outcome(data, counts, runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        assert outcome(data, counts, runs) == by_c
    return by_c


@max_examples(60)
@given(
    parts=PARTS,
    numbers=st.lists(st.integers(-(10**5), 10**5), max_size=80),
    wide=st.sampled_from([0, 4, 12, 30]),
    damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 2**32 - 1)), max_size=2),
    length=st.integers(-3, 2),
    seed=st.integers(0, 10**6),
)
def test_written_streams_and_damaged_ones(
    parts: list[tuple[int, int]],
    numbers: list[int],
    wide: int,
    damage: list[tuple[int, int]],
    length: int,
    seed: int,
) -> None:
    """Codes are wider than their class by ``wide``, so that many are escapes."""
    rng = np.random.default_rng(seed)
    runs = [Run(kind, size) for kind, size in parts]
    levels = [
        levels_of_path(random_codes(rng, min(run.context_class + wide, 72), run.size))
        for run in runs
    ]
    words = np.frombuffer(encode_runs([np.array(numbers, dtype=np.int32)], runs, levels), "<u4")
    words = words.copy()
    for place, value in damage:
        words[place % len(words) if len(words) else 0 :][:1] ^= np.uint32(value)
    data = words.tobytes()
    data = data[: 4 * length] if length < 0 else data + b"\0\0\0\1" * length
    found = assert_both_alike(data, [len(numbers)], runs)
    if not damage and not length:
        assert found[1:] == [(np.int32, b"".join(level.tobytes() for level in levels))]


@max_examples(60)
@given(
    data=st.binary(max_size=400).map(lambda each: each[: len(each) // 4 * 4]),
    counts=COUNTS,
    parts=PARTS,
)
@example(data=b"", counts=[3], parts=[(4, 300)])
@example(data=b"\xff" * 16, counts=[3], parts=[(4, 300)])
@example(data=b"\0" * 400, counts=[], parts=[])
def test_any_bytes(data: bytes, counts: list[int], parts: list[tuple[int, int]]) -> None:
    assert_both_alike(data, counts, [Run(kind, size) for kind, size in parts])


@pytest.mark.parametrize("distance", [0, 2**33 - 2, 2**33 - 1, 2**33, 2**38])
@pytest.mark.parametrize("more", [[], [0], [1]])
def test_the_end_of_a_stream(distance: int, more: list[int]) -> None:
    """Compares at the distance from which constriction says that a stream is not at its end."""
    scale = (2**64 - 1) >> 24
    for place in range(0, 2**24, 2**24 // 50):
        point = scale * place + distance
        words = np.array([point >> 32, point & (2**32 - 1), *more], dtype="<u4")
        assert_both_alike(words.tobytes(), [1], [])


@pytest.mark.parametrize("name", ["coded", "layer_steps"])
def test_golden_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers() -> list[bytes]:
        adapter = kronq.load(GOLDEN / f"{name}.safetensors")
        matrices = [m for delta in adapter.values() for m in delta.matrices]
        assert all(isinstance(matrix, EntropyCoded) for matrix in matrices)
        return [matrix.float32().tobytes() for matrix in matrices]

    by_c = numbers()
    monkeypatch.setenv(SWITCH, "0")
    monkeypatch.setattr(compiled_decoder.CompiledDecoder, "numbers", None)
    assert numbers() == by_c


def test_no_compiler_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KRONQ_CACHE", str(tmp_path))
    for command in ("no-such-compiler", "false", '"'):
        monkeypatch.setenv("CC", command)
        assert uncached_library() is None
    monkeypatch.delenv("CC")
    assert uncached_library() is not None
    tmp_path.joinpath("kernels").chmod(0o777)
    assert uncached_library() is None  # others could have written it
    monkeypatch.setenv("KRONQ_CACHE", "/dev/null/cache")
    assert uncached_library() is None
    monkeypatch.delenv("KRONQ_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert uncached_library() is None


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def uncached_library() -> object:
    from kronq.compiled.library import _library

    return _library.__wrapped__()


@pytest.mark.parametrize("fewer", [[], ["-DKRONQ_AVX2"], ["-DKRONQ_PLAIN"]])
def test_sanitizers(tmp_path: Path, fewer: list[str]) -> None:
    """Runs all functions, on hostile streams too, under address and undefined sanitizers."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs GCC or Clang")
    program = tmp_path / "hostile"
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = Path(__file__).with_name("hostile_streams.c")
    sources = [source, *(PROGRAM.folder / name for name in PROGRAM.sources)]
    built = subprocess.run(
        [compiler, *flags, *fewer, "-I", PROGRAM.folder, *sources, "-o", program],
        capture_output=True,
    )
    if re.search(rb"asan|ubsan|clang_rt", built.stderr):  # what the linker does not find
        pytest.skip("needs the sanitizers' libraries")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = int(done.stdout.split()[0])
    assert 20 < refused < 380
