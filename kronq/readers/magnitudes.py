"""DoRA's trained magnitudes, by the shapes that trainers store them in."""

from __future__ import annotations

from kronq.errors import FormatError
from kronq.model.delta import Delta
from kronq.model.matrix import Float
from kronq.readers.layer_factors import Parts


def read_magnitude(
    parts: Parts, part: str, delta: Delta, *, by_output: bool = False
) -> Float | None:
    """Returns a layer's magnitude [d_out, 1] or [1, d_in]; None without one.

    LyCORIS and OneTrainer store [d_out, 1, …], one for each row of the weight, or [1, d_in, 1, …],
    one for each input channel. PEFT stores one for each row as [d_out] or [1, d_out, 1, …].

    Args:
        parts: The layer's tensors.
        part: The magnitude's.
        delta: The layer, for its shape.
        by_output: Whether every magnitude is one of rows.

    Raises:
        FormatError: It has another shape.
    """
    if part not in parts:
        return None
    shape = parts.shape(part)
    rows, channels, *_ = delta.weight_shape
    values = parts.tensors.vector(parts.names[part])
    long = [size for size in shape if size != 1]
    on_input = not by_output and len(shape) > 1 and shape[0] == 1 and shape[1] == channels
    on_output = long == ([rows] if rows > 1 else []) and (by_output or shape[0] == rows)
    if len(long) > 1 or not (on_input or on_output):
        raise FormatError(
            "the magnitude does not fit the layer",
            path=parts.tensors.path,
            layer=parts.layer,
            found=list(shape),
            expected=f"{rows} rows or {channels} input channels",
            code="factors",
        )
    return Float(values.reshape((rows, 1) if on_output else (1, channels)))
