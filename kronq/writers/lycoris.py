"""Files of LyCORIS and of kohya's scripts: LoKr, and LoRA (LoCon on convolutions).

The scale of LoKr is multiplied into w1 and α is the rank: 1 by every reader's rule. LoRA keeps its
factors and its α, which every reader divides by the rank.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import FormatError, UnsupportedError, listing
from kronq.io.tensor_writer import Tensor
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta
from kronq.readers.lycoris_keys import CARRIED
from kronq.writers.balance import balance_quantized
from kronq.writers.contents import FileContents, Request, Values, write_file
from kronq.writers.lokr_factors import factor_tensors, keeps_product, second_sides, second_tensors
from kronq.writers.lora_factors import LoraLayer, lora_layers
from kronq.writers.source_keys import source_keys

_FRONTS = {"lycoris": "lycoris_", "kohya-lora": "lora_unet_"}


write = write_file


def build(adapter: Adapter, request: Request) -> FileContents:
    """Builds the file of ``--to lycoris`` or ``--to kohya-lora``.

    Raises:
        UnsupportedError: Layers are cropped, two have one key, or carried parts have no place.
    """
    loras = _loras(adapter, all_layers=request.to == "kohya-lora")
    _refuse_cropped(adapter, [name for name in adapter if name not in loras])
    keys = source_keys(adapter, _FRONTS[request.to])
    _refuse_carried(adapter, {*keys.values()})
    balanced = balance_quantized(adapter)
    tensors: dict[str, Tensor] = {}
    ranks = {}
    for name, key in keys.items():
        delta = balanced[name]
        lora = loras.get(name)
        parts, alpha = _lokr_parts(delta) if lora is None else _lora_parts(lora)
        ranks[name] = delta.rank if lora is None else lora.rank
        for part, value in parts.items():
            tensors[f"{key}.{part}"] = value.tensor(request.dtype, name)
        tensors[f"{key}.alpha"] = np.asarray(alpha, np.float32)
        if delta.magnitude is not None:
            tensors[f"{key}.dora_scale"] = _dora_scale(delta)
    tensors |= adapter.carried
    family = "kron" if len(loras) < len(adapter) else "lora"
    return FileContents(family, ranks, tensors, _metadata(adapter))


def _loras(adapter: Adapter, *, all_layers: bool) -> dict[str, LoraLayer]:
    """Returns the layers that are LoRA already, or all of them as LoRA."""
    if all_layers:
        return lora_layers(adapter)
    layers = {name: delta for name, delta in adapter.items() if delta.a is ONE}
    return lora_layers(replace(adapter, layers=layers)) if layers else {}


def _lora_parts(layer: LoraLayer) -> tuple[dict[str, Values], float]:
    up, down = layer.tensors()
    return {"lora_up.weight": up, "lora_down.weight": down}, layer.alpha


def _lokr_parts(delta: Delta) -> tuple[dict[str, Values], float]:
    """Returns LoKr's tensors with the scale in w1, and α, the rank.

    LyCORIS 4.1 (``modules/lokr.py``) keeps a product whose rank is below half of its larger side,
    that of w1 only beside one of w2, of the same rank; others are multiplied out.
    """
    b_product = keeps_product(delta.b, second_sides(delta))
    a_product = b_product and delta.a.rank == delta.b.rank
    a_product = a_product and keeps_product(delta.a, delta.a.shape)
    parts = factor_tensors("lokr_w1", delta.a, a_product)
    first = next(iter(parts))
    parts[first] = parts[first].times(delta.scale)
    return parts | second_tensors(delta, b_product), float(delta.b.rank if b_product else 1)


def _dora_scale(delta: Delta) -> NDArray[Any]:
    """Returns the magnitude as it came, in the dimensions of the weight."""
    assert delta.magnitude is not None  # noqa: S101  # the caller has looked
    rows, columns = delta.magnitude.shape
    shape = (rows, columns, *[1] * len(delta.kernel))
    return np.ascontiguousarray(delta.magnitude.array).reshape(shape)


def _metadata(adapter: Adapter) -> dict[str, str]:
    base = adapter.origin.base_model
    named = base is not None and not Path(base).is_absolute()
    return {"format": "pt"} | ({"ss_base_model_version": str(base)} if named else {})


def _refuse_cropped(adapter: Adapter, names: list[str]) -> None:
    cropped = [name for name in names if adapter[name].shape != adapter[name].full_shape]
    if cropped:
        raise UnsupportedError(
            "LyCORIS's LoKr cannot crop",
            path=adapter.origin.path,
            found=listing(cropped),
            hint="{to=kohya-lora} is exact and takes any shape",
        )


def _refuse_carried(adapter: Adapter, keys: set[str]) -> None:
    """Refuses trained parts that no reader of such a file knows, or takes for a layer's own."""
    ends = (".alpha", ".scalar")
    doubled = [
        tensor
        for tensor in adapter.carried
        if tensor.endswith(ends) and tensor.rpartition(".")[0] in keys
    ]
    if doubled:
        raise FormatError(
            "a carried part has the name of a layer's own, and would change its ΔW",
            path=adapter.origin.path,
            found=listing(doubled),
        )
    strange = [
        tensor
        for tensor in adapter.carried
        if not (CARRIED.fullmatch(tensor) or tensor.endswith(ends))
    ]
    if strange:
        raise UnsupportedError(
            "trained parts that a LyCORIS file has no place for",
            path=adapter.origin.path,
            found=listing(strange),
            expected="differences of weights and biases",
            hint="put them into the base",
        )
