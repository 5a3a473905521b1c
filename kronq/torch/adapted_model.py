"""Linear layers of a PyTorch model replaced by ``KronLinear``, and their adapter read back."""

from __future__ import annotations

from torch import nn

from kronq.errors import ArgumentError
from kronq.model.adapter import Adapter
from kronq.model.layer_expressions import NameMatcher
from kronq.planning.families import AdapterShape, make_delta
from kronq.torch.kron_linear import KronLinear


def adapt_linears(
    model: nn.Module,
    shape: AdapterShape,
    *,
    only: str | None = None,
    alpha: float | None = None,
    dropout: float = 0.0,
) -> list[KronLinear]:
    """Adapts a model's linear layers in place, and freezes everything else.

    Args:
        model: A PyTorch model, as transformers makes it.
        shape: Family and sizes: ``lora``, ``kron`` or ``lokr``.
        only: A regular expression: layers in whose names it is found. Without it, all linear
            layers but the output embedding, as PEFT's ``all-linear``.
        alpha: α; ΔW has the factor α/r. None for 2·r.
        dropout: As of ``KronLinear``.

    Returns:
        The new layers, in the model's order.

    Raises:
        ArgumentError: No layer is meant, or the family has no such module.

    Example:
        >>> layers = kronq.torch.adapt_linears(model, kronq.AdapterShape("kron", 8))
        >>> ...  # train the parameters that need gradients
        >>> kronq.convert(kronq.torch.read_trained(model), "my-lokr", to="peft")
    """
    if shape.family == "lora-xs":
        raise ArgumentError("no module for this family", found=shape.family)
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
    model.requires_grad_(False)
    scale = (2 * shape.rank if alpha is None else alpha) / shape.rank
    made = []
    for name, linear in found.items():
        like = make_delta(shape, linear.out_features, linear.in_features)
        layer = KronLinear(linear, like, scale=scale, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
        made.append(layer)
    return made


def read_trained(model: nn.Module) -> Adapter:
    """Returns the adapter of all ``KronLinear`` layers of a model, copied to float32.

    Raises:
        ArgumentError: The model has none.
    """
    layers = {n: each.delta() for n, each in model.named_modules() if isinstance(each, KronLinear)}
    if not layers:
        raise ArgumentError("no KronLinear in the model", found=type(model).__name__)
    return Adapter(layers)


def read_factors(model: nn.Module, adapter: Adapter) -> None:
    """Loads an adapter's factors into the ``KronLinear`` layers of a model, to train on.

    Raises:
        ArgumentError: The layers are others, or of other shapes.
    """
    layers = {n: each for n, each in model.named_modules() if isinstance(each, KronLinear)}
    if other := {*layers} ^ {*adapter}:
        raise ArgumentError("the adapter has other layers", found=sorted(other)[0])
    for name, layer in layers.items():
        layer.load(adapter[name])
