"""``kronq quantize --method compact``: files of an asked size, adapters like any other after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kronq as library
from tests.cli.command import Kronq
from tests.paths import EXAMPLE


@pytest.mark.slow
def test_a_file_of_an_asked_size_that_converts(kronq: Kronq, tmp_path: Path) -> None:
    packed, folder = tmp_path / "a.safetensors", tmp_path / "lora"
    done = kronq("quantize", EXAMPLE, "-o", packed, "--method", "compact", "--size", "100KB")
    assert done.code == 0, done.err
    assert 99_000 <= packed.stat().st_size <= 100_000
    assert kronq("convert", packed, "--to", "lora", "-o", folder).code == 0
    one, other = library.load(packed), library.load(folder)
    for name in list(one)[:3]:
        assert np.allclose(one[name].dense(), other[name].dense(), atol=1e-6)


def test_fixed_widths_fill_no_size(kronq: Kronq, tmp_path: Path) -> None:
    asked = ("quantize", EXAMPLE, "-o", tmp_path / "a.safetensors", "--size", "100KB")
    assert "--size is for --method native, compact or tuned, not rtn" in kronq.refuses(
        *asked, "--method", "rtn"
    )
    assert not list(tmp_path.iterdir())
