"""Layers whose matrices are entropy-coded levels of one step: the smallest file of a given error.

One step for everything is reverse water-filling (Cover and Thomas, Elements of Information Theory,
10.3.3): an entry is worth bits by how far it moves ΔW, and a component of less energy than the
error gets none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta, Product
from kronq.trellis.coded_matrix import EntropyCoded, KnownLevels, MatrixLevels
from kronq.trellis.layer_shape import channel_axis, layer_shape
from kronq.trellis.product_target import LayerTarget
from kronq.trellis.reconstruction import reconstruction_scales
from kronq.trellis.rounding import RoundedLevels
from kronq.trellis.stream import EncodedStream, decoded_levels, stream_shares


def build_coded_layers(
    adapter: Adapter, targets: Sequence[LayerTarget], rounded: RoundedLevels
) -> dict[str, Delta]:
    """Returns the adapter's layers with these levels as their matrices."""
    layers = {}
    step, shifts = rounded.step, rounded.shifts
    for i, ((name, delta), target, classes) in enumerate(
        zip(adapter.items(), targets, rounded.norm_classes, strict=True)
    ):
        shape, offsets = target.shape, target.offsets
        scales = reconstruction_scales(shape, classes, step, offsets)
        products = []
        for p, shapes in enumerate(shape.products):
            own = classes[p], scales[p], step, shifts, offsets
            known = [
                KnownLevels(MatrixLevels(rounded.levels.reader((i, p, side)), *own))
                for side in range(len(shapes))
            ]
            products.append(
                [
                    EntropyCoded(size, channel_axis(shapes, side), 0, each)
                    for side, (size, each) in enumerate(zip(shapes, known, strict=True))
                ]
            )
        layers[name] = _with_products(delta, products)
    return layers


def share_stream(layers: Mapping[str, Delta], stream: EncodedStream) -> dict[str, Delta]:
    """Returns coded layers that know their stream, and each matrix's share of its bytes."""
    matrices = [m for d in layers.values() for m in d.matrices if isinstance(m, EntropyCoded)]
    sizes = [m.shape[0] * m.shape[1] for m in matrices]
    shares = iter(enumerate(stream_shares(sizes, len(stream.data))))

    def shared(matrix: EntropyCoded) -> EntropyCoded:
        place, nbytes = next(shares)
        known = KnownLevels(matrix.decode(), stream, place)
        return replace(matrix, nbytes=nbytes, decode=known)

    made = {}
    for name, delta in layers.items():
        products = [
            [shared(m) for m in p.matrices if isinstance(m, EntropyCoded)]
            for p in (delta.a, delta.b)
            if p is not ONE
        ]
        made[name] = _with_products(delta, products)
    return made


def rescale_coded_layers(adapter: Adapter, factor: float) -> dict[str, Delta]:
    """Returns the layers of a coded adapter with ΔW ``factor`` times as large, by its step."""
    layers = {}
    for name, delta in adapter.items():
        levels = decoded_levels(delta)
        step, offsets = levels[-1][0].step * factor, levels[-1][0].offsets
        classes = [product[0].norm_classes for product in levels]
        scales = reconstruction_scales(layer_shape(delta), classes, step, offsets)
        products = [
            [
                replace(matrix, decode=KnownLevels(replace(each, step=step, scale=scale)))
                for matrix, each in zip(product.matrices, matrices, strict=True)
                if isinstance(matrix, EntropyCoded)
            ]
            for product, matrices, scale in zip(
                [p for p in (delta.a, delta.b) if p is not ONE], levels, scales, strict=True
            )
        ]
        layers[name] = _with_products(delta, products)
    return layers


def _with_products(delta: Delta, products: Sequence[Sequence[EntropyCoded]]) -> Delta:
    *a, b = [Product(*matrices) for matrices in products]
    return replace(delta, a=a[0] if a else ONE, b=b)
