"""The size of a packed file, found without packing, against the file's own length."""

from __future__ import annotations

import numpy as np
import pytest

import kronq
from kronq.model.matrix import Quantized
from kronq.packed import SizeByWidths, matrices_by_role, pack_adapter, packed_size
from tests.adapters import adapter

CONFIGS = {
    "as trained": None,
    "float16": kronq.Float16(),
    "rtn3": kronq.Uniform(3, "rtn", axis="row", a_bits=8),
    "groups": kronq.Uniform(4, group_size=5),
    "rtn8": kronq.Uniform(8, "rtn"),
    "native": kronq.Native(bits=3),
    "compact": kronq.Compact(bpw=4),
}


@pytest.mark.parametrize("method", CONFIGS)
def test_every_kind_of_matrix(method: str) -> None:
    config, made = CONFIGS[method], adapter(seed=4)
    made = made if config is None else kronq.quantize(made, config)
    assert packed_size(made) == len(pack_adapter(made))


def test_other_widths() -> None:
    wide, narrow = (kronq.quantize(adapter(seed=4), kronq.Native(bits=b)) for b in (4, 3))
    sizes = SizeByWidths(wide)
    for made in (wide, narrow):
        widths = {
            (name, role): np.asarray(matrix.widths)
            for name, delta in made.items()
            for role, matrix in matrices_by_role(delta).items()
            if isinstance(matrix, Quantized) and matrix.widths is not None
        }
        by_hand = len(pack_adapter(made)) - len(pack_adapter(wide))
        header = abs(sizes.measure(widths) - packed_size(wide) - by_hand)
        assert header <= 64, "all but the digits of the recipe and of the layers' scales"
    assert sizes.measure(widths) < packed_size(wide)
