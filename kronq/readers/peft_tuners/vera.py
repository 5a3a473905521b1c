"""VeRA and PVeRA: one random A and B for all layers, and two trained vectors for each.

ΔW = diag(λ_b) · B[:d_out] · diag(λ_d) · A[:, :d_in] (arXiv 2310.11454). PVeRA has twice as many
λ_d and rows of A; the second half is a variance, which inference does not use.

The file has A and B, or the seed that PEFT makes them of. They are as large as the largest layer
needs: a layer's own d_in is that of the base.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from kronq.errors import FormatError, UnsupportedError
from kronq.io.tensors import Tensors
from kronq.io.torch_random import TorchGenerator
from kronq.model.delta import F64, Delta
from kronq.readers.options import Options
from kronq.readers.peft_config import PeftConfig
from kronq.readers.peft_tuners.base_shapes import base_shapes
from kronq.readers.peft_tuners.parts import (
    bad_factors,
    check_expanded,
    complete_parts,
    float64,
    low_rank,
    refuse_scale,
)
from kronq.readers.peft_tuners.shared_tensors import shared_tensors

_SAME_INPUT = (
    {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"},
    {"query", "key", "value"},
    {"q_lin", "k_lin", "v_lin"},
)
"""Modules that all read the hidden state."""


def read(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads VeRA layers."""
    return _read(tensors, config, options, "vera")


def read_pvera(tensors: Tensors, config: PeftConfig, options: Options) -> dict[str, Delta]:
    """Reads PVeRA layers."""
    return _read(tensors, config, options, "pvera")


def _read(tensors: Tensors, config: PeftConfig, options: Options, kind: str) -> dict[str, Delta]:
    refuse_scale(config, options)
    shared = shared_tensors(tensors, [f"{kind}_A", f"{kind}_B"])
    names = {f"{kind}_lambda_b": 1, f"{kind}_lambda_d": 1}
    groups = complete_parts(tensors, names, apart=shared.values())
    halves = 2 if kind == "pvera" else 1
    rows = {n: tensors.entries[parts[f"{kind}_lambda_b"]].shape[0] for n, parts in groups.items()}
    ranks = {tensors.entries[parts[f"{kind}_lambda_d"]].shape[0] for parts in groups.values()}
    if not groups:
        return {}
    if len(ranks) > 1 or ranks.copy().pop() % halves:
        raise FormatError(
            f"{kind}_lambda_d of several ranks", path=tensors.path, found=sorted(ranks)
        )
    rank = ranks.pop() // halves
    if len(shared) == 2:
        a, b = (float64(tensors, shared[f"{kind}_{side}"]) for side in "AB")
        columns = _columns(tensors, config, options, rows, a.shape[-1])
    else:
        columns = _columns(tensors, config, options, rows, None)
        a, b = _projections(config, halves, rank, max(columns.values()), max(rows.values()))
    if a.shape[0] != halves * rank or b.shape[1:] != (rank,) or a.ndim != 2:
        shapes = {f"{kind}_A": a.shape, f"{kind}_B": b.shape, f"{kind}_lambda_d": (rank * halves,)}
        raise bad_factors(tensors, "all layers", shapes, expected="one rank")
    check_expanded(tensors, ((rank, rows[name], columns[name]) for name in groups))
    layers = {}
    for name, parts in groups.items():
        left, right = (float64(tensors, parts[f"{kind}_lambda_{side}"]) for side in "bd")
        if rows[name] > b.shape[0] or columns[name] > a.shape[1]:
            shapes = {f"{kind}_A": a.shape, f"{kind}_B": b.shape}
            expected = f"enough for a layer [{rows[name]}, {columns[name]}]"
            raise bad_factors(tensors, name, shapes, expected=expected)
        up, down = left[:, None] * b[: rows[name]], right[:rank, None] * a[:rank, : columns[name]]
        layers[name] = low_rank(tensors, name, up, down)
    return layers


def _rank(tensors: Tensors, vectors: Iterable[str], halves: int) -> int:
    """Returns r, of which all λ_d are."""
    sizes = {tensors.entries[name].shape[0] for name in vectors}
    if len(sizes) > 1 or min(sizes) % halves:
        found = ", ".join(map(str, sorted(sizes)))
        raise FormatError("lambda_d is not of one rank", path=tensors.path, found=found)
    return min(sizes) // halves


def _columns(
    tensors: Tensors,
    config: PeftConfig,
    options: Options,
    rows: Mapping[str, int],
    largest: int | None,
) -> dict[str, int]:
    """Returns d_in of every layer: the base's, or that of A where all layers read one input.

    Raises:
        UnsupportedError: Nothing tells, and no base is given.
    """
    if options.base_weights is not None:
        shapes = base_shapes(options.base_weights, config, rows)
        for name, (d_out, _) in shapes.items():
            if d_out != rows[name]:
                raise bad_factors(
                    tensors, name, {"lambda_b": (rows[name],)}, expected=f"the base's {d_out} rows"
                )
        return {name: d_in for name, (_, d_in) in shapes.items()}
    if largest is not None and _read_one_input(rows):
        return dict.fromkeys(rows, largest)
    raise UnsupportedError(
        f"the number of inputs of each layer is not in a file of {config.kind}"
        + ("" if largest is not None else " without its projections"),
        path=tensors.path,
        hint="{base_weights} names the base's folder, with its safetensors",
    )


def _read_one_input(rows: Mapping[str, int]) -> bool:
    """Tells whether all layers are of one kind, or of kinds that read the same hidden state.

    Args:
        rows: Layer → d_out; where one kind has several, its stages may differ in their inputs too.
    """
    shapes = {(re.sub(r"\d+", "#", layer), d_out) for layer, d_out in rows.items()}
    kinds = {kind for kind, _ in shapes}
    if len(kinds) < len(shapes):
        return False
    modules = {kind.rpartition(".")[2] for kind in kinds}
    fronts = {re.sub(r"[^.]*\.[^.]*$", "", kind) for kind in kinds}
    return len(kinds) == 1 or (len(fronts) == 1 and any(modules <= same for same in _SAME_INPUT))


def _projections(
    config: PeftConfig, halves: int, rank: int, d_in: int, d_out: int
) -> tuple[F64, F64]:
    """Returns A [halves·r, d_in] and B [d_out, r] of ``projection_prng_key``, as PEFT does."""
    generator = TorchGenerator(config.number("projection_prng_key"), config.path)
    made = []
    for shape in ((halves * rank, d_in), (d_out, rank)):
        bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(shape[1]))  # Kaiming, by columns
        made.append(generator.uniform(-bound, bound, shape).astype(float))
    return made[0], made[1]
