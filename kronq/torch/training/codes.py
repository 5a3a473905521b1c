"""Codes in the loop: a training in which every step runs the adapter as its packed file will be.

The factors are rounded as ``compact`` rounds them, at the step that fills the file, and at its
price of a bit. Their gradient is that of the loss at the rounded values (the straight-through
estimate, Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from kronq.io.blas import small_matrices
from kronq.model.adapter import Adapter, Recipe
from kronq.model.delta import ONE, Delta, Product
from kronq.model.error_weights import error_weight
from kronq.model.matrix import F32, Float
from kronq.quantization.compact.size_budget import FilledSize, fill_size, order_as_in_file
from kronq.quantization.config_checks import MAX_BPW
from kronq.quantization.file_size import file_size
from kronq.torch.adapted_model import adapted_layers, read_trained
from kronq.torch.training.checkpoint import INTERVAL
from kronq.torch.training.settings import TrainingSettings
from kronq.trellis.coded_layers import build_coded_layers
from kronq.trellis.product_target import LayerTarget, ProductTarget
from kronq.trellis.rounding import round_targets
from kronq.trellis.stream import encode_layers
from kronq.trellis.targets import prepare_targets
from kronq.units import parse_size


class CodesInLoop:
    """The codes that a model's adapter has in each step of its training.

    They begin once the rate has risen: from zeros there would be nothing to round. The step of the
    levels is searched anew at every checkpoint, from which a training can then go on.

    Args:
        model: The adapted model.
        size: Bytes of the packed file.
        first: Step of the training from which on there are codes.

    Raises:
        ArgumentError: Not even the adapter as it begins fits.
    """

    def __init__(self, model: Any, size: int, first: int) -> None:
        self._model = model
        self._size = size
        self._first = first
        self._filled = self._fill(read_trained(model))

    @classmethod
    def of(cls, model: Any, settings: TrainingSettings) -> CodesInLoop | None:
        """Returns the codes that a training is asked for, or None."""
        if settings.target is None:
            return None
        return cls(model, parse_size(settings.target), max(1, settings.warmup_steps))

    @contextmanager
    def rounded(self, step: int) -> Iterator[int]:
        """Rounds the model's adapter while a step's gradients are taken.

        Args:
            step: Of the training.

        Yields:
            Bytes of the file; 0 before there are codes.
        """
        if step < self._first:
            yield 0
            return
        adapter = read_trained(self._model)
        coded, nbytes = self._round(adapter, step)
        layers = adapted_layers(self._model)
        for name, layer in layers.items():
            layer.load(coded[name])
        try:
            yield nbytes
        finally:
            for name, layer in layers.items():
                layer.load(adapter[name])

    @small_matrices()
    def _round(self, adapter: Adapter, step: int) -> tuple[Mapping[str, Delta], int]:
        if step == self._first or step % INTERVAL == 0:
            self._filled = self._fill(adapter)
        adapter = order_as_in_file(adapter)
        targets = prepare_targets(adapter)
        levels = round_targets(targets, self._filled.step, self._filled.tables)
        layers = build_coded_layers(adapter, targets, levels)
        packed = replace(self._filled.adapter, layers=layers)
        nbytes = file_size(packed, encode_layers([*layers.values()]))
        made = zip(adapter.items(), layers.values(), targets, strict=True)
        return {name: in_trained_gauge(own, coded, to) for (name, own), coded, to in made}, nbytes

    @small_matrices()
    def _fill(self, adapter: Adapter) -> FilledSize:
        bits = min(round(8 * self._size / adapter.parameters, 4), MAX_BPW)
        return fill_size(adapter, self._size, Recipe("compact", bits))


def in_trained_gauge(trained: Delta, coded: Delta, target: LayerTarget) -> Delta:
    """Returns a coded layer by factors that are near those that are trained.

    Codes have a gauge of their own, B1·G and G⁻¹·B2, in which gradients are others. A rank
    component without codes keeps its B2, so that B1 has a gradient and can come back.

    Args:
        trained: The layer as it is trained.
        coded: Its codes.
        target: What was rounded to them.

    Returns:
        The same ΔŴ in floats.
    """
    a, ratio = ONE, 1.0
    if trained.a is not ONE:
        wanted, found = trained.a.left.float32(), coded.a.left.float32()
        energy = float(np.vdot(found, found))
        ratio = float(np.vdot(wanted, found)) / energy if energy else 1.0
        a = Product(Float(found * np.float32(ratio) if energy else wanted))
    left, right = coded.b.float32()
    if right is None:
        return replace(trained, a=a, b=Product(Float(left / np.float32(ratio))))
    b = _ungauged(trained, (left / np.float32(ratio), right), target.products[-1])
    return replace(trained, a=a, b=b)


def _ungauged(trained: Delta, coded: tuple[F32, F32], target: ProductTarget) -> Product:
    b1, b2 = (x.astype(np.float64) for x in trained.b.float32() if x is not None)
    assert target.right is not None  # noqa: S101
    left, right = (x.astype(np.float64) for x in coded)
    root = np.sqrt(target.norms / (np.sqrt(error_weight(trained)) or 1.0))
    present = root > 0
    # With B1·B2 = U·S·Vᵀ: B1 = U√S·G and B2 = G⁻¹·√S·Vᵀ, where G = (U√S)⁺·B1.
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=present)
    gauge, back = inverse[:, None] * (target.left.T @ b1), (b2 @ target.right) * inverse
    none = ~(left.any(axis=0) & right.any(axis=1))
    left[:, none] = 0.0
    right[none] = (root[:, None] * target.right.T)[none]
    return Product(*(Float(x.astype(np.float32)) for x in (left @ gauge, back @ right)))
