"""Gives layers the kernels of the base's convolutions, which a file of plain matrices does not say.

LyCORIS stores low-rank convolutions as matrices of two dimensions. The columns of ΔW are
channel · K + position in the kernel either way, so the base's kernel says all that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kronq.errors import MismatchError
from kronq.model.adapter import Adapter
from kronq.model.delta import Delta
from kronq.onnx.graph.layer_match import Matches, label_of
from kronq.onnx.graph.sites import Site


def fit_kernels(adapter: Adapter, matches: Matches) -> Adapter:
    """Returns the adapter with every layer's kernel as the base has it.

    Args:
        adapter: Layers in the base's shapes.
        matches: Layer → its sites.

    Raises:
        MismatchError: A layer has another kernel, or is cropped to a convolution.
    """
    layers: Mapping[str, Delta] = adapter
    if any(delta.kernel for delta in adapter.values()) or any(
        site.conv for sites in matches.values() for site in sites
    ):
        layers = {name: _fit(name, delta, matches[name]) for name, delta in adapter.items()}
        return replace(adapter, layers=layers)
    return adapter


def kernel_fits(delta: Delta, site: Site) -> bool:
    """Tells whether a layer says nothing else on its kernel than the base; size 1 is linear."""
    kernel = site.conv.kernel if site.conv is not None else ()
    return delta.kernel == kernel or {*delta.kernel, *kernel} == {1}


def _fit(name: str, delta: Delta, sites: tuple[Site, ...]) -> Delta:
    conv = sites[0].conv
    kernel = conv.kernel if conv is not None else ()
    if delta.kernel and not all(kernel_fits(delta, site) for site in sites):
        raise MismatchError(
            "the layer has another kernel than the base's weight",
            layer=name,
            found=_describe(delta.kernel),
            expected=f"{_describe(kernel)} at {label_of(sites)!r}",
            hint="wrong base model?",
            code="shape",
        )
    if conv is not None and (sites[0].part or sites[0].share or delta.shape != delta.full_shape):
        raise MismatchError("a convolution is fused or cropped", layer=name, found=label_of(sites))
    return replace(delta, kernel=kernel)


def _describe(kernel: tuple[int, ...]) -> str:
    return f"a kernel {'×'.join(map(str, kernel))}" if kernel else "a linear layer"
