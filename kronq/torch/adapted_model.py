"""Linear layers of a PyTorch model replaced by adapted ones, and their adapter read back."""

from __future__ import annotations

import warnings

from torch import nn

from kronq.errors import ArgumentError, KronqWarning, StrPath, listing
from kronq.io.blas import small_matrices
from kronq.model.adapter import Adapter
from kronq.model.frozen_bases import BasisRecipe, FrozenBases, joint_digest
from kronq.model.layer_expressions import NameMatcher
from kronq.model.matrix import Quantized
from kronq.planning.families import AdapterShape, make_delta
from kronq.readers.basis import open_basis
from kronq.torch.core_linear import CoreLinear
from kronq.torch.kron_linear import KronLinear
from kronq.torch.training_gauge import to_training_gauge
from kronq.trellis.coded_matrix import EntropyCoded

Adapted = KronLinear | CoreLinear


def adapt_linears(
    model: nn.Module,
    shape: AdapterShape,
    *,
    only: str | None = None,
    alpha: float | None = None,
    dropout: float = 0.0,
    base: StrPath | None = None,
) -> list[Adapted]:
    """Adapts a model's linear layers in place, and freezes everything else.

    Args:
        model: A PyTorch model, as transformers makes it.
        shape: Family and sizes.
        only: A regular expression: layers in whose names it is found. Without it, all linear
            layers but the output embedding, as PEFT's ``all-linear``.
        alpha: α; ΔW has the factor α/r. None for 2·r.
        dropout: As of ``KronLinear``.
        base: For ``lora-xs``: the model's Hugging Face folder, of whose weights its frozen bases
            are made. A layer whose bases another machine could make with another sign is not
            adapted, and a warning names it.

    Returns:
        The new layers, in the model's order.

    Raises:
        ArgumentError: No layer is meant, or LoRA-XS has no ``base``.
        MismatchError: The folder has no such weight.

    Example:
        >>> layers = kronq.torch.adapt_linears(model, kronq.AdapterShape("kron", 8))
        >>> ...  # train the parameters that need gradients
        >>> kronq.convert(kronq.torch.read_trained(model), "my-lokr", to="peft")
    """
    found = find_linears(model, only)
    likes = {n: make_delta(shape, m.out_features, m.in_features) for n, m in found.items()}
    scale = (2 * shape.rank if alpha is None else alpha) / shape.rank
    made: dict[str, Adapted]
    if shape.family == "lora-xs":
        if base is None:
            raise ArgumentError("LoRA-XS needs the base's weights", hint="{base} is their folder")
        made = dict(_cores(found, shape.rank, base, scale, dropout))
    else:
        made = {
            name: KronLinear(linear, likes[name], scale=scale, dropout=dropout)
            for name, linear in found.items()
        }
    model.requires_grad_(False)
    for name, layer in made.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return [*made.values()]


def find_linears(model: nn.Module, only: str | None) -> dict[str, nn.Linear]:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    matcher = NameMatcher()
    found = {
        name: each
        for name, each in model.named_modules()
        if isinstance(each, nn.Linear)
        and (matcher.matches(only, name) if only else each is not head)
    }
    if not found:
        raise ArgumentError("no linear layer has such a name", found=only)
    return found


@small_matrices()
def _cores(
    linears: dict[str, nn.Linear], rank: int, base: StrPath, scale: float, dropout: float
) -> dict[str, CoreLinear]:
    source = open_basis(base, BasisRecipe())
    made, left = {}, []
    for name, linear in linears.items():
        basis, frame = source.basis(name, rank, (linear.out_features, linear.in_features))
        if frame.is_settled:
            made[name] = CoreLinear(linear, (basis, frame), scale=scale, dropout=dropout)
        else:
            left.append(name)
    if left:
        warnings.warn(
            KronqWarning(
                f"{len(left):,} layers are not adapted, since the signs of their bases are not "
                f"settled: {listing(left).short}"
            ),
            stacklevel=3,
        )
    return made


def adapted_layers(model: nn.Module) -> dict[str, Adapted]:
    """Returns the adapted layers of a model by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Adapted)}


def read_trained(model: nn.Module) -> Adapter:
    """Returns the adapter of all adapted layers of a model, copied to float32.

    Of LoRA-XS it is R alone, with what tells its bases.

    Raises:
        ArgumentError: The model has none.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ArgumentError("no KronLinear in the model", found=type(model).__name__)
    cores = {name: each.basis for name, each in layers.items() if isinstance(each, CoreLinear)}
    digest = joint_digest({name: basis.digest for name, basis in cores.items()})
    bases = FrozenBases(cores, digest, BasisRecipe()) if cores else None
    return Adapter({name: each.delta() for name, each in layers.items()}, bases=bases)


def read_factors(model: nn.Module, adapter: Adapter) -> None:
    """Loads an adapter's factors into the adapted layers of a model, to train on.

    Floats are taken as they are. Those of a quantized adapter get the norms that a new layer
    begins with, of which a training's rate is (``to_training_gauge``); ΔW is the same.

    Raises:
        ArgumentError: The layers are others, or of other shapes.
    """
    layers = adapted_layers(model)
    if other := {*layers} ^ {*adapter}:
        raise ArgumentError("the adapter has other layers", found=sorted(other)[0])
    for name, layer in layers.items():
        delta = adapter[name]
        if any(isinstance(matrix, Quantized | EntropyCoded) for matrix in delta.matrices):
            delta = to_training_gauge(delta, layer.delta())
        layer.load(delta)
