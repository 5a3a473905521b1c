"""LoRA whose initialization moved a part of the base into the factors: ΔW is what changed since.

The base that it was trained on is W − s·B₀·A₀, so ΔW = s·B·A − s·B₀·A₀ = [s·B, −s·B₀] · [A; A₀], of
twice the rank. B₀ and A₀ are those of the adapter as it was before training, or products that the
base's weight gives again: s·B₀·A₀ of PiSSA is its r largest singular components (arXiv 2404.02948),
B₀·A₀ of OLoRA the first r columns of its QR decomposition (arXiv 2406.01775). KaSA (arXiv
2412.06071) drops the r smallest singular components of the base.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kronq.errors import ArgumentError, MismatchError, UnsupportedError, listing
from kronq.io.safetensors_file import open_tensors
from kronq.io.tensors import Tensors
from kronq.model.delta import F64, ONE, Delta, Product
from kronq.model.matrix import Float
from kronq.readers.options import Options
from kronq.readers.peft_config import WEIGHTS, PeftConfig, read_config
from kronq.readers.peft_tuners.base_shapes import base_weight

_MOVES_BASE = re.compile(r"pissa.*|olora|corda.*|loftq|lora_ga", re.IGNORECASE)
"""Initializations that move a part of the base into the factors."""


def check_moved(config: PeftConfig, options: Options) -> None:
    """Refuses an adapter that moved the base, where nothing tells what it took.

    Raises:
        UnsupportedError: Neither the initial adapter nor the base is given, or they do not help.
        ArgumentError: An initial adapter is given for one that did not move the base.
    """
    moved, found = _moved(config)
    if options.initial is not None and moved in ("", "kasa"):
        raise ArgumentError(
            "what the adapter took from its base is not in an initial one",
            path=config.path,
            found=found,
            hint="leave out {initial}; if the config lost its init_lora_weights, correct it there",
        )
    if not moved or (options.initial is not None and moved != "loftq"):
        return
    if options.base_weights is not None and _projection(config) is not None:
        return
    ways = ["{base_weights} names the base's folder"] * (_projection(config) is not None)
    if moved == "loftq":
        ways = [
            "PEFT's path_initial_model_for_weight_conversion does not undo LoftQ: "
            "merge it into the base that LoftQ wrote"
        ]
    elif "kasa" not in moved:
        ways += [
            "{initial} names the folder of the adapter as it was before training, or PEFT's "
            "path_initial_model_for_weight_conversion gives one of the original base"
        ]
    raise UnsupportedError(
        "the adapter belongs to a base that its initialization changed",
        path=config.path,
        found=found,
        hint="; ".join(ways),
    )


def restore_base(
    layers: dict[str, Delta],
    config: PeftConfig,
    options: Options,
    read: Callable[[Tensors, PeftConfig, Options], dict[str, Delta]],
) -> dict[str, Delta]:
    """Returns the layers for the original base, less what their initialization took from it.

    Args:
        layers: s · B · A.
        config: The adapter's.
        options: With the initial adapter or the base.
        read: Reads s₀ · B₀ · A₀ of the initial adapter.
    """
    if not _moved(config)[0]:
        return layers
    if options.initial is not None:
        tensors = open_tensors(options.initial / WEIGHTS)
        plain = Options(options.scale_rule, options.alpha)
        return _subtract(layers, read(tensors, read_config(options.initial), plain))
    project, folder = _projection(config), options.base_weights
    if project is None or folder is None:
        return layers  # check_moved has refused it
    taken = {}
    for name, delta in layers.items():
        up, down = project(base_weight(folder, config, name), delta.rank)
        b = Product(Float(up.astype(np.float32)), Float(down.astype(np.float32)))
        scale = delta.scale if _moved(config)[0] == "olora" else 1.0
        taken[name] = Delta(ONE, b, scale, b.shape)
    return _subtract(layers, taken)


def _moved(config: PeftConfig) -> tuple[str, str]:
    """Returns the initialization that moved the base, or nothing, and how the config has it."""
    initialization = str(config.settings.get("init_lora_weights"))
    if config.settings.get("kasa_config"):
        return "kasa", "kasa_config"
    found = f"init_lora_weights {initialization!r}"
    return (initialization.lower() if _MOVES_BASE.fullmatch(initialization) else ""), found


def _projection(config: PeftConfig) -> Callable[[F64, int], tuple[F64, F64]] | None:
    """Returns the function that finds in the base's weight what was taken of it, if one can."""
    return {"pissa": _largest, "olora": _first_columns, "kasa": _smallest}.get(_moved(config)[0])


def _first_columns(weight: F64, rank: int) -> tuple[F64, F64]:
    """Returns Q [d_out, r] and Qᵀ·W of OLoRA."""
    q = np.linalg.qr(weight[:, :rank])[0]
    return q, q.T @ weight


def _largest(weight: F64, rank: int) -> tuple[F64, F64]:
    """Returns U [d_out, r] and Uᵀ·W of the r largest singular components."""
    return _components(weight, slice(-rank, None))


def _smallest(weight: F64, rank: int) -> tuple[F64, F64]:
    """Returns U [d_out, r] and Uᵀ·W of the r smallest singular components."""
    return _components(weight, slice(None, rank))


def _components(weight: F64, chosen: slice) -> tuple[F64, F64]:
    """Returns singular components in ascending order, by the eigenvectors of the smaller square."""
    if len(weight) <= weight.shape[1]:
        u = np.linalg.eigh(weight @ weight.T)[1][:, chosen]
        return u, u.T @ weight
    v = np.linalg.eigh(weight.T @ weight)[1][:, chosen]
    return weight @ v, v.T


def _subtract(layers: dict[str, Delta], taken: dict[str, Delta]) -> dict[str, Delta]:
    """Returns layers − taken, of the sum of their ranks.

    Raises:
        MismatchError: They are not of the same layers and shapes.
    """
    wrong = [n for n in layers.keys() | taken.keys() if not _same_shape(layers, taken, n)]
    if wrong:
        raise MismatchError(
            "the initial adapter has other layers, or other shapes", found=listing(wrong)
        )
    return {name: _less(delta, taken[name]) for name, delta in layers.items()}


def _same_shape(layers: dict[str, Delta], taken: dict[str, Delta], name: str) -> bool:
    return name in layers and name in taken and layers[name].shape == taken[name].shape


def _less(delta: Delta, taken: Delta) -> Delta:
    (up, down), (up0, down0) = (tuple(m.float32() for m in d.b.matrices) for d in (delta, taken))
    scale = delta.scale or 1.0
    up0 = (-taken.scale / scale * up0.astype(np.float64)).astype(np.float32)
    b = Product(
        Float(np.hstack([up if delta.scale else 0 * up, up0])), Float(np.vstack([down, down0]))
    )
    return replace(delta, b=b, scale=scale)
