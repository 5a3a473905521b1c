"""``kronq.quantize_many``: a stream of adapters, such as a network generates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from kronq.errors import ArgumentError, check_type
from kronq.io.processes import map_stream
from kronq.model.adapter import Adapter
from kronq.quantization.configs import Config
from kronq.quantization.quantize import quantize


def quantize_many(
    adapters: Iterable[Adapter],
    config: Config | None = None,
    *,
    bits: int | None = None,
    workers: int = 1,
) -> Iterator[Adapter]:
    """Quantizes adapters one after the other, as ``quantize`` does each.

    Args:
        adapters: As they were trained, or generated; any iterable, one without end too.
        config: As in ``quantize``.
        bits: As in ``quantize``.
        workers: Number of processes; results do not depend on it. With more than one, a script that
            calls this needs ``if __name__ == "__main__":``, as ``multiprocessing`` says.

    Yields:
        The quantized adapters, in order. What ``quantize`` raises for one ends the stream there.

    Raises:
        ArgumentError: ``workers`` is less than 1.

    Example:
        >>> for made in kronq.quantize_many(generated, kronq.Native(bits=4), workers=2):
        ...     send(kronq.pack(made))
    """
    check_type("adapters", adapters, Iterable)
    check_type("workers", workers, int)
    if isinstance(adapters, Adapter):
        raise ArgumentError("one adapter", found=repr(adapters), expected="several: [adapter]")
    if workers < 1:
        raise ArgumentError("workers", found=workers, expected="1 or more")
    return map_stream(partial(quantize, config=config, bits=bits), adapters, workers)
