"""The library on other processors than this one, by a C program in ONNX Runtime's place, emulated.

`make wheel` runs this file with KRONQ_WHEEL, the wheel whose libraries are meant, and with ziglang,
which compiles the program. Without, it is the library compiled here, on x86-64.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kronq.compiled.find import compiled_library
from kronq.compiled.library import PROGRAM as LOOPS
from kronq.compiled.platforms import SHIPPED, library_name
from kronq.compiled.shipped import RECORD
from kronq.onnx.slots.kernel import PROGRAM

WHEEL = os.environ.get("KRONQ_WHEEL")
INSIDE = "kronq/compiled/libraries/"
DRIVER = Path(__file__).with_name("operator_driver.c")
X86_64 = platform.machine() in ("x86_64", "AMD64") and sys.platform == "linux"
ARM = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
WINE = [shutil.which("wine64") or "/usr/lib/wine/wine64"]  # Debian's is not in PATH

needs_wheel = pytest.mark.skipif(
    not WHEEL or not importlib.util.find_spec("ziglang"), reason="make wheel"
)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(str(WHEEL)) as wheel:
        wheel.extractall(folder, [n for n in wheel.namelist() if n.startswith(INSIDE)])
    return folder / INSIDE


def run(library: Path, compiler: list[str], folder: Path, emulator: list[str]) -> str:
    """Returns what the driver prints; it compares sums with float64's, and two runs."""
    if emulator and not shutil.which(emulator[0]):
        pytest.skip(f"needs {emulator[0]}")
    if emulator == ARM and not Path(ARM[-1]).is_dir():
        pytest.skip("needs libc6-arm64-cross")
    driver = folder / ("driver.exe" if library.suffix == ".dll" else "driver")
    command = [*compiler, "-O1", f"-I{PROGRAM.folder}", str(DRIVER), "-o", str(driver), "-lm"]
    subprocess.run(command, check=True)
    command = [*emulator, str(driver), str(library)]
    env = os.environ | {"WINEPREFIX": str(folder / "wine"), "WINEDEBUG": "-all"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def zig(target: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", "cc", "-target", target]


@pytest.mark.skipif(not X86_64 or not shutil.which("cc"), reason="compiles for x86-64 Linux")
@pytest.mark.parametrize("emulator", [[], *(["qemu-x86_64", "-cpu", c] for c in ("qemu64", "max"))])
def test_compiled_here(tmp_path, emulator) -> None:
    """A processor with SSE2 alone, one with AVX2, and this one."""
    print(run(compiled_library(PROGRAM), ["cc"], tmp_path, emulator))


@pytest.mark.skipif(sys.platform != "linux", reason="finds the library by ELF's rules")
@pytest.mark.parametrize("number", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_sanitizers(tmp_path: Path, number: int) -> None:
    """Damaged records and pools, and sound ones, under address and undefined sanitizers."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs GCC or Clang")
    program, (library, driver) = PROGRAM, (tmp_path / "kronq.so", tmp_path / "driver")
    sources = [program.folder / name for name in program.sources]
    checked = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    for command in (
        [compiler, *program.flags, "-Wno-psabi", *checked, *sources, "-o", library],
        [compiler, *checked, f"-I{program.folder}", DRIVER, "-o", driver, "-lm"],
    ):
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the sanitizers' libraries")
    env = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1"}
    for changes in ([], [str(number)]):
        command = [driver, library, *changes]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_wheel
def test_the_wheel_has_all_platforms_and_their_hashes(libraries: Path) -> None:
    lines = [line.split("  ") for line in (libraries / RECORD).read_text().splitlines()]
    names = {library_name(p.name, on) for p in (PROGRAM, LOOPS) for on in SHIPPED}
    assert {name for _, name in lines} == names == {f.name for f in libraries.iterdir()} - {RECORD}
    for digest, name in lines:
        assert hashlib.sha256((libraries / name).read_bytes()).hexdigest() == digest


@needs_wheel
@pytest.mark.parametrize(
    ("place", "target", "emulator"),
    [
        ("linux-x64", "x86_64-linux-gnu.2.28", ["qemu-x86_64", "-cpu", "qemu64"]),
        ("linux-x64", "x86_64-linux-gnu.2.28", ["qemu-x86_64", "-cpu", "max"]),
        ("linux-arm64", "aarch64-linux-gnu.2.28", ARM),
        ("win-x64", "x86_64-windows-gnu", WINE),
    ],
)
def test_shipped(libraries: Path, tmp_path: Path, place, target, emulator) -> None:
    library = libraries / library_name(PROGRAM.name, place)
    print(run(library, zig(target), tmp_path, emulator))


@needs_wheel
@pytest.mark.parametrize(
    ("target", "emulator"),
    [("aarch64-linux-gnu.2.28", ARM), ("x86_64-windows-gnu", WINE)],
)
def test_the_loops_decode_and_encode_what_they_do_here(tmp_path: Path, target, emulator) -> None:
    """Of random streams as many are refused, and the others are encoded to the same words."""
    source = Path(__file__).parents[2] / "trellis" / "hostile_streams.c"
    flags = [flag for flag in LOOPS.flags if flag not in ("-shared", "-fPIC")]
    sources = [str(source), *(str(LOOPS.folder / name) for name in LOOPS.sources)]
    found = []
    for name, compiler, before in (("here", ["cc"], []), ("there", zig(target), emulator)):
        if before and not shutil.which(before[0]):
            pytest.skip(f"needs {before[0]}")
        program = tmp_path / (f"{name}.exe" if "windows" in target else name)
        command = [*compiler, *flags, f"-I{LOOPS.folder}", *sources, "-o", str(program)]
        subprocess.run([*command, "-lm"], check=True)
        env = os.environ | {"WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
        run = [*before, str(program)]
        found.append(
            subprocess.run(run, capture_output=True, text=True, check=True, env=env).stdout
        )
    assert found[0].split() == found[1].split()
