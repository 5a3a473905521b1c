"""Inputs of a language model that follow from its tokens: mask, positions, an empty KV cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, UnsupportedError, listing
from kronq.onnx.genai_config import cache_window
from kronq.onnx.model_files import ModelFiles

if TYPE_CHECKING:
    import onnxruntime as ort

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
IntArray = NDArray[np.integer[Any]]


def as_batch(input_ids: IntArray | Sequence[int]) -> IntArray:
    """Returns tokens as [batch, tokens]; one sequence becomes a batch of one.

    Raises:
        KronqError: The array is empty, has no integers, or another number of dimensions.
    """
    ids = np.atleast_2d(np.asarray(input_ids))
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ArgumentError(
            "not token ids",
            found=f"{ids.dtype} of shape {list(ids.shape)}",
            expected="whole numbers, [batch, tokens], at least one",
        )
    return ids


def make_token_inputs(
    session: ort.InferenceSession,
    files: ModelFiles,
    ids: IntArray,
    mask: IntArray | None,
    given: Collection[str],
) -> dict[str, NDArray[Any]]:
    """Makes every input that follows from the tokens and that the caller has not given.

    Args:
        session: The opened model; names, types and shapes of its inputs decide.
        files: Its files; genai_config.json has the head size where the graph leaves it open.
        ids: [batch, tokens].
        mask: [batch, tokens], 1 for a token and 0 for padding; None for all ones.
        given: Names of inputs that the caller feeds.

    Raises:
        UnsupportedError: The model has no input_ids, or inputs that do not follow from tokens.
        KronqError: The mask has another shape than the tokens.
    """
    wanted = {node.name: node for node in session.get_inputs()}
    if mask is not None and any(map(is_windowed, wanted.values())):
        mask = _without_padding(mask)
    if "input_ids" not in wanted:
        raise UnsupportedError(
            "the model takes no tokens: no input named input_ids",
            path=files.model,
            found=listing(wanted),
            hint="Session.run takes any inputs",
        )
    known = _token_arrays(ids, mask)
    feed: dict[str, NDArray[Any]] = {}
    unknown = []
    for name, node in wanted.items():
        dtype = DTYPES.get(node.type)
        if name in given:
            continue
        if name in known and dtype is not None:
            feed[name] = _with_axes(known[name], node.shape).astype(dtype)
        elif name.startswith("past_key_values.") and len(node.shape) == 4 and dtype is not None:
            feed[name] = np.zeros(empty_cache_shape(node.shape, len(ids), files, name), dtype)
        else:
            unknown.append(f"{name} {node.type}{node.shape}")
    if unknown:
        raise UnsupportedError(
            "inputs that do not follow from tokens",
            path=files.model,
            found=listing(unknown),
            hint="give them in 'extra'",
        )
    return feed


def _token_arrays(ids: IntArray, mask: IntArray | None) -> dict[str, IntArray]:
    ones = np.ones_like(ids) if mask is None else np.asarray(mask)
    if ones.shape != ids.shape:
        raise ArgumentError(
            "the attention mask has another shape than the tokens",
            found=list(ones.shape),
            expected=list(ids.shape),
        )
    return {
        "input_ids": ids,
        "attention_mask": ones,
        "position_ids": np.maximum(ones.cumsum(axis=1) - 1, 0),
        "token_type_ids": np.zeros_like(ids),
    }


def _with_axes(values: IntArray, shape: Sequence[int | str | None]) -> IntArray:
    """Repeats positions [batch, tokens] for time, height and width where a model has all three."""
    if len(shape) != 3 or not isinstance(shape[0], int):
        return values
    return np.broadcast_to(values, (shape[0], *values.shape))


def empty_cache_shape(
    shape: Sequence[int | str | None], batch: int, files: ModelFiles, name: str
) -> tuple[int, int, int, int]:
    """Returns [batch, heads, 0, head size] of a past key or value; with a window, not 0."""
    heads = shape[1] if isinstance(shape[1], int) else files.decoder("num_key_value_heads")
    size = shape[3] if isinstance(shape[3], int) else files.decoder("head_size")
    if not isinstance(heads, int) or not isinstance(size, int):
        raise UnsupportedError(
            "neither the graph nor a genai_config.json says how large the KV cache is",
            path=files.model,
            found=f"{name} {list(shape)}",
        )
    return batch, heads, _cache_length(shape, files, name), size


def is_windowed(node: ort.NodeArg) -> bool:
    """Tells whether an input is a KV cache of the window's length, never empty."""
    return any("sliding" in str(dim) for dim in node.shape)


def _cache_length(shape: Sequence[int | str | None], files: ModelFiles, name: str) -> int:
    if "sliding" not in str(shape[2]):
        return 0
    window = cache_window(files.genai)
    if window == 0:
        raise UnsupportedError(
            "nothing says how long the windowed KV cache is",
            path=files.model,
            found=f"{name} {list(shape)}",
            expected="sliding_window in genai_config.json",
            hint="{build_base} makes a base without such a cache",
        )
    return window


def _without_padding(mask: IntArray) -> IntArray:
    """Returns a mask of ones: tokens do not see padding on the right, and a windowed cache no mask.

    Raises:
        UnsupportedError: There is padding on the left.
    """
    if (np.diff(np.atleast_2d(mask), axis=-1) > 0).any():
        raise UnsupportedError(
            "a base with a windowed KV cache takes padding on the right only",
            hint="{build_base} makes a base without such a cache",
        )
    return np.ones_like(mask)
