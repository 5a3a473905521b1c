"""Groups of a packed file: layers of one shape and recipe, which are stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from kronq.errors import FormatError
from kronq.model.adapter import Adapter
from kronq.model.delta import ONE, Delta
from kronq.model.flat_names import flatten
from kronq.model.layer_names import MAX_NAME, compress_names, name_template, natural_key
from kronq.model.matrix import Float, Matrix, Quantized
from kronq.model.matrix_stacks import MatrixStack, SeparateMatrices
from kronq.model.stacks import LayerStack, StackedLayers, stack_alike
from kronq.packed.bases import core_shape
from kronq.packed.manifest import Group, MatrixSpec
from kronq.trellis.coded_matrix import EntropyCoded

Fields = tuple[tuple[str, object], ...]
PRODUCTS = (("A", "A2"), ("B1", "B2"))
"""Roles of a layer's matrices."""


def group_layers(adapter: Adapter) -> list[list[str]]:
    """Groups the layers' names, in the file's order, by shape and recipe.

    Raises:
        FormatError: A name or a source's key is empty, too long or has braces, which templates
            use.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    keys = _group_keys(adapter)
    for name in sorted(adapter, key=_order):
        if not 0 < len(name) <= MAX_NAME or "{" in name or "}" in name:
            raise FormatError(
                "a layer's name cannot be packed",
                layer=name,
                expected=f"1 to {MAX_NAME} characters and no braces",
            )
        key = adapter.origin.keys.get(name)
        front = _key_front(name, key)
        if key is not None and (len(key) > MAX_NAME or (front is True and {*key} & {*"{}"})):
            raise FormatError(
                "a layer's key in its source cannot be packed",
                layer=name,
                found=key,
                expected=f"up to {MAX_NAME} characters and no braces",
            )
        kind = (*keys[name], front, core_shape(adapter, name))
        groups.setdefault(kind, []).append(name)
    return list(groups.values())


@lru_cache(maxsize=2**14)
def _order(name: str) -> tuple[object, ...]:
    return name_template(name), natural_key(name), name


def _key_front(name: str, key: str | None) -> str | bool | None:
    """Returns the text in front of a flattened name in its key; True if the key is no such."""
    if key is None:
        return None
    flat = flatten(name)
    return key.removesuffix(flat) if key.endswith(flat) else True


def matrices_by_role(delta: Delta) -> dict[str, Matrix]:
    """Returns the matrices of a layer by their role in the file: A, A2, B1 and B2."""
    a = {} if delta.a is ONE else dict(zip(PRODUCTS[0], delta.a.matrices, strict=False))
    return a | dict(zip(PRODUCTS[1], delta.b.matrices, strict=False))


def stacks_by_role(stack: LayerStack) -> dict[str, MatrixStack]:
    """Returns the matrices of a stack by their role in the file."""
    pairs = zip(PRODUCTS, (stack.a, stack.b), strict=True)
    a, b = (dict(zip(roles, each, strict=False)) for roles, each in pairs)
    return a | b | ({} if stack.magnitude is None else {"magnitude": stack.magnitude})


def group_stacks(adapter: Adapter, names: Sequence[str]) -> list[LayerStack]:
    """Returns the layers of a group as stacks: those that they are in, if all of these are in it.

    Args:
        adapter: The adapter.
        names: The group's layers, in the file's order.
    """
    stacks = adapter.layers.stacks if isinstance(adapter.layers, StackedLayers) else ()
    firsts = {stack.names[0]: stack for stack in stacks}
    found: list[LayerStack] = []
    done = 0
    while done < len(names) and (stack := firsts.get(names[done])) is not None:
        if [*stack.names] != [*names[done : done + len(stack.names)]]:
            break
        found.append(stack)
        done += len(stack.names)
    if done == len(names):
        return found
    return [stack_alike(names, [adapter[name] for name in names])]


def _group_keys(adapter: Adapter) -> dict[str, tuple[object, ...]]:
    """Returns what the layers of a group share, for each layer."""
    if not isinstance(adapter.layers, StackedLayers):
        return {name: _group_key(delta) for name, delta in adapter.items()}
    keys: dict[str, tuple[object, ...]] = {}
    for stack in adapter.layers.stacks:
        if any(isinstance(each, SeparateMatrices) for each in (*stack.a, *stack.b)):
            keys |= {name: _group_key(adapter[name]) for name in stack.names}
        else:
            keys |= dict.fromkeys(stack.names, _group_key(stack.first))
    return keys


def _group_key(delta: Delta) -> tuple[object, ...]:
    a = None if delta.a is ONE else tuple(map(_kind, delta.a.matrices))
    magnitude = None if delta.magnitude is None else _kind(delta.magnitude)
    return delta.shape, delta.kernel, magnitude, a, tuple(map(_kind, delta.b.matrices))


def _kind(matrix: Matrix) -> tuple[object, ...]:
    """Returns what matrices of one group share: all that ``_fields`` tells of them."""
    if isinstance(matrix, Quantized):
        width = matrix.bits if matrix.widths is None else 0
        return matrix.codes.shape, matrix.axis, matrix.group_size, width, matrix.scale is not None
    if isinstance(matrix, Float):
        return matrix.array.shape, matrix.array.dtype
    return (matrix.shape,)


def _fields(matrix: Matrix) -> Fields:
    """Returns what the manifest says of a matrix, as names and values."""
    if isinstance(matrix, EntropyCoded):
        return (("shape", matrix.shape),)
    if not isinstance(matrix, Quantized):
        return (("shape", matrix.shape), ("dtype", matrix.dtype))
    width = ("bits", matrix.bits) if matrix.widths is None else ("widths", True)
    return (
        ("shape", matrix.shape),
        ("axis", matrix.axis),
        ("group_size", matrix.group_size),
        width,
        ("scaled", matrix.scale is not None),
    )


def _describe(matrix: Matrix) -> MatrixSpec:
    return MatrixSpec.model_validate(dict(_fields(matrix)))


def describe_group(
    stacks: Sequence[LayerStack],
    keys: Mapping[str, str],
    core: tuple[int, int] | None = None,
) -> Group:
    """Returns what the manifest says of a group of layers.

    Args:
        stacks: The layers, in the file's order.
        keys: Layer → its key in the source file, of those that have one.
        core: Shape of ΔW, if they are R alone.
    """
    first = stacks[0].first
    names = [name for stack in stacks for name in stack.names]
    scales = [scale for stack in stacks for scale in stack.scales]
    specs = {role: _describe(matrix) for role, matrix in matrices_by_role(first).items()}
    front = _key_front(names[0], keys.get(names[0]))
    return Group(
        layers=compress_names(names),
        shape=first.shape,
        scale=scales[0] if len(set(scales)) == 1 else scales,
        A=specs.get("A"),
        A2=specs.get("A2"),
        B1=specs["B1"],
        B2=specs.get("B2"),
        core=core,
        kernel=first.kernel,
        magnitude=None if first.magnitude is None else _describe(first.magnitude),
        keys=compress_names([keys[n] for n in names]) if front is True else front or None,
    )
