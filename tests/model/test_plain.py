"""Convolutions and DoRA in the normal form, and the verbs that refuse them for now."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kronq
from kronq.errors import UnsupportedError
from kronq.model.delta import ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.model.weighted_sum import weighted_sum

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Float:
    return Float(RNG.standard_normal(shape).astype(np.float32))


def test_a_convolutions_update_is_its_patches_times_delta() -> None:
    """torch's own convolution is the judge of the columns' order."""
    delta = Delta.uncropped(Product(floats(2, 3)), Product(floats(2, 5 * 6)), 0.5, (2, 3))
    assert delta.weight_shape == (4, 15, 2, 3)
    weight = torch.from_numpy(delta.dense()).reshape(delta.weight_shape)
    x = torch.from_numpy(RNG.standard_normal((2, 15, 7, 8)).astype(np.float32))
    patches = torch.nn.functional.unfold(x, (2, 3)).transpose(1, 2)
    expected = torch.nn.functional.conv2d(x, weight).flatten(2).transpose(1, 2)
    assert np.allclose(delta.apply(patches.numpy()), expected, atol=1e-4)


@pytest.mark.parametrize("kernel", [(4,), (2, 2)])
def test_kernels_and_magnitudes_that_do_not_fit_are_refused(kernel: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no whole channels"):
        Delta.uncropped(ONE, Product(floats(2, 6)), 1.0, kernel)
    with pytest.raises(ValueError, match="is none of"):
        Delta(ONE, Product(floats(2, 8)), 1.0, (2, 8), kernel, floats(1, 8))


def test_quantizing_keeps_what_is_beside_the_factors() -> None:
    first = Delta.uncropped(ONE, Product(floats(8, 2), floats(2, 9)), 1.0, (3, 3))
    second = Delta(ONE, first.b, 1.0, first.shape, magnitude=floats(8, 1))
    carried = {"norm.diff": np.ones(3, np.float16)}
    origin = kronq.Adapter({}).origin
    adapter = kronq.Adapter({"a.conv": first, "b": second}, origin, carried=carried)
    for config in (kronq.Native(bits=4), kronq.Uniform(bits=8), kronq.Compact(size=2000)):
        quantized = kronq.quantize(adapter, config)
        assert quantized["a.conv"].kernel == (3, 3)
        assert quantized["b"].magnitude is second.magnitude
        assert quantized.carried == carried
    with pytest.raises(UnsupportedError, match="magnitudes"):
        weighted_sum([(adapter, 0.5)])
