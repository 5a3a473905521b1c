"""Large adapters: memory grows with what a command keeps, not with the file that it reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cores.adapters import write_lora_xs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of memory"),
]

ROWS = COLS = 1024
RANK = 512
LAYER = 4 * ROWS * COLS
"""Bytes of a layer: one whole factor in float32."""
RUN = """
import sys
from pathlib import Path
from kronq.cli import main
from kronq.io import overflow
overflow.KEPT = 2**20
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def write(folder: Path, layers: int) -> Path:
    """Writes LoKr of whole factors, with the names of Flux's layers."""
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(layers):
        key = f"transformer.transformer_blocks.{layer}.attn.to_q"
        tensors[f"{key}.lokr_w1"] = random.normal(size=(3, 3)).astype(np.float32)
        tensors[f"{key}.lokr_w2"] = random.normal(size=(ROWS, COLS)).astype(np.float32)
        tensors[f"{key}.alpha"] = np.ones((), np.float32)
    path = folder / f"{layers}.safetensors"
    save_file(tensors, path)
    return path


def peak(*arguments: object) -> int:
    """Bytes of memory that a command takes at most."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    # One thread, and large blocks go back to the system when they are freed: what else a process
    # holds at its peak depends on how threads meet and on what glibc keeps.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) * 1024


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["inspect"], 0.0),
        (["quantize", "--dry-run", "--method", "rtn", "--bits", 4], 0.0),
        (["quantize", "--dry-run", "--method", "fp16"], 0.0),
        (["quantize", "--dry-run", "--bits", 4], 0.0),
        (["convert", "--to", "lycoris", "--dtype", "fp16"], 0.0),
    ],
    ids=["inspect", "rtn", "fp16", "native", "convert"],
)
def test_memory_grows_with_the_codes_alone(tmp_path: Path, arguments: list[object], kept: float):
    """Of three times as many layers nothing is kept in memory, codes neither."""
    verb, *options = arguments
    if verb == "convert":
        options += ["--force", "-o", tmp_path / "out.safetensors"]
    few, many = (peak(verb, write(tmp_path, layers), *options) for layers in (4, 12))
    assert many - few < (kept + 0.2) * 8 * LAYER


def test_memory_does_not_grow_with_frozen_bases(tmp_path: Path):
    """LoRA-XS's own folder has the bases, which R alone has not."""

    def convert(layers: int) -> int:
        folder, small = tmp_path / f"xs-{layers}", tmp_path / f"{layers}.safetensors"
        random = np.random.default_rng(0)
        shapes = (ROWS, RANK), (RANK, COLS)
        pairs = {
            f"model.layers.{layer}.{module}": tuple(
                random.normal(size=shape).astype(np.float32) for shape in shapes
            )
            for layer in range(layers // 4)
            for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
        }
        write_lora_xs(folder, pairs)
        peak("quantize", folder, "--basis", folder, "--method", "rtn", "-o", small)
        options = ("--basis", folder, "-o", tmp_path / "out", "--force")
        return peak("convert", small, "--to", "lora-xs", "--dtype", "bf16", *options)

    few, many = (convert(layers) for layers in (4, 12))
    assert many - few < 0.2 * 8 * 4 * RANK * (ROWS + COLS)
