"""``kronq.quantize_many`` and ``pack_many``: a stream of adapters, such as a network generates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from kronq.errors import ArgumentError, check_type
from kronq.io.processes import map_stream
from kronq.model.adapter import Adapter
from kronq.packed.writer import pack
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
    _check(adapters, workers)
    return map_stream(partial(quantize, config=config, bits=bits), adapters, workers)


def pack_many(
    adapters: Iterable[Adapter],
    config: Config | None = None,
    *,
    bits: int | None = None,
    workers: int = 1,
) -> Iterator[bytes]:
    """Quantizes adapters and packs them, as ``pack`` does what ``quantize_many`` yields.

    With several processes it is quicker than that: only the bytes of files come back from them.

    Args:
        adapters: As of ``quantize_many``.
        config: As of ``quantize_many``.
        bits: As of ``quantize_many``.
        workers: As of ``quantize_many``.

    Yields:
        The bytes of a packed file for each adapter, in order.

    Raises:
        ArgumentError: ``workers`` is less than 1.

    Example:
        >>> for data in kronq.pack_many(generated, kronq.Uniform(4, "rtn"), workers=2):
        ...     send(data)
    """
    _check(adapters, workers)
    return map_stream(partial(_quantize_and_pack, config=config, bits=bits), adapters, workers)


def _quantize_and_pack(adapter: Adapter, config: Config | None, bits: int | None) -> bytes:
    return pack(quantize(adapter, config, bits=bits))


def _check(adapters: Iterable[Adapter], workers: int) -> None:
    check_type("adapters", adapters, Iterable)
    check_type("workers", workers, int)
    if isinstance(adapters, Adapter):
        raise ArgumentError("one adapter", found=repr(adapters), expected="several: [adapter]")
    if workers < 1:
        raise ArgumentError("workers", found=workers, expected="1 or more")
