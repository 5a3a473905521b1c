"""Whole models, run: an export against the same adapter in the other form, and onnx's checker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from kronq.errors import KronqError
from kronq.onnx.export_report import Difference
from kronq.onnx.sessions import open_session
from kronq.onnx.verify.difference import accept, difference, worse

if TYPE_CHECKING:
    import onnxruntime as ort

MODEL_TOLERANCES = {
    ir.DataType.FLOAT: 1e-3,
    ir.DataType.FLOAT16: 5e-2,
    ir.DataType.BFLOAT16: 2e-1,
}
TOKENS = 8
HEAD_SIZES = (64, 128, 32, 96, 80, 256, 16, 8)

Feeds = dict[str, NDArray[Any]]


def check_models(
    first: Path,
    second: Path | None,
    base: Path,
    dtype: ir.DataType,
    given: Feeds | None = None,
) -> tuple[Difference | None, float | None, str | None]:
    """Runs two exports of one adapter, and the base, on the same inputs.

    Args:
        first: The model that is to be shipped.
        second: The same adapter in the other form; None when there is no such thing.
        base: The base.
        dtype: What the base's weights are stored in.
        given: The adapter, when ``first`` has slots for it; without it ``first`` must be the base.

    Returns:
        The largest difference between the exports, the adapter's own effect on the outputs, and,
        when the model cannot be run, why not.

    Raises:
        KronqError: The exports differ by more than the tolerance, or only the base can be run.
    """
    # Packing copies every float weight once, before the first is let go.
    run = partial(_run, pack=second is None)
    try:
        before = run(base)
    except _CannotRunError as error:
        return None, None, str(error)
    except Exception as error:
        return None, None, f"ONNX Runtime: {_message(error).splitlines()[0][:300]}"
    try:
        found = run(first, given)
        empty = before if given is None else run(first)
        expected = None if second is None else run(second)
    except Exception as error:
        raise KronqError(
            f"ONNX Runtime runs the base and not the export: {_message(error)}"
        ) from None
    for name, value in before.items():
        # Equal to the bit, unless ONNX Runtime fuses a layer of the base with what follows it.
        empty_apart = difference(empty[name], value, MODEL_TOLERANCES[dtype] / 100, name)
        accept(empty_apart, "empty slots change the base")
    effect = max(difference(found[n], before[n], 0.0, n).relative for n in before)
    if expected is None:
        return None, effect, None
    worst = Difference(tolerance=MODEL_TOLERANCES[dtype])
    for name, value in expected.items():
        here = difference(found[name], value, worst.tolerance, name)
        accept(here, "the exported model differs from its reference")
        worst = worse(worst, here)
    return worst, effect, None


def check_model(path: Path, base: Path) -> bool | None:
    """ONNX's own checker; None where it does not know the base's operators either.

    Raises:
        KronqError: It accepted the base and does not accept the export.
    """
    try:
        onnx.checker.check_model(str(base))
    except Exception:
        return None
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise KronqError(f"onnx's checker refuses the export: {error}", path=path) from None
    return True


def _message(error: Exception) -> str:
    """Returns ONNX Runtime's own message."""
    return str(error.__cause__ or error)


class _CannotRunError(Exception):
    """An input that nobody can make up."""


def _run(path: Path, given: Feeds | None = None, *, pack: bool = True) -> dict[str, NDArray[Any]]:
    # Without packing float weights stay mapped files (quantized ones become float arrays).
    session = open_session(path, config=None if pack else {"session.disable_prepacking": "1"})
    names = [output.name for output in session.get_outputs() if "float" in output.type]
    # A symbolic head size is not told by the model: the usual ones are tried.
    for width in HEAD_SIZES:
        feeds = make_feeds(session, width) | (given or {})
        try:
            return dict(zip(names, session.run(names, feeds), strict=True))
        except Exception:
            if width == HEAD_SIZES[-1]:
                raise
    return {}


def make_feeds(session: ort.InferenceSession, width: int) -> Feeds:
    """Plausible inputs for any model: small token ids, full attention, an empty past.

    Raises:
        _CannotRunError: An input is of a type that is not made up.
    """
    rng = np.random.default_rng(0)
    feeds: Feeds = {}
    for entry in session.get_inputs():
        if entry.type not in _MAKERS:
            raise _CannotRunError(f"input {entry.name!r} is {entry.type}")
        shape = [_size(dim, width) for dim in entry.shape]
        feeds[entry.name] = _MAKERS[entry.type](rng, entry.name, shape)
    return feeds


def _size(dim: int | str | None, width: int) -> int:
    if isinstance(dim, int):
        return dim
    name = str(dim).lower()
    if "batch" in name:
        return 1
    if "total" in name or "+" in name:
        return TOKENS
    if "past" in name:
        return 0
    return width if any(word in name for word in ("dim", "head", "size", "width")) else TOKENS


def _integers(rng: np.random.Generator, name: str, shape: list[int]) -> NDArray[Any]:
    if "mask" in name:
        return np.ones(shape, dtype=np.int64)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape).copy()
    if "type" in name:
        return np.zeros(shape, dtype=np.int64)
    return rng.integers(1, 100, shape)


_MAKERS: dict[str, Callable[[np.random.Generator, str, list[int]], NDArray[Any]]] = {
    "tensor(int64)": _integers,
    "tensor(int32)": lambda rng, name, shape: _integers(rng, name, shape).astype(np.int32),
    "tensor(float)": lambda rng, _, shape: rng.standard_normal(shape).astype(np.float32),
    "tensor(float16)": lambda rng, _, shape: rng.standard_normal(shape).astype(np.float16),
    "tensor(bool)": lambda _, __, shape: np.ones(shape, dtype=np.bool_),
}
