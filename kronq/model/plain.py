"""Refusals of what some verbs cannot take: convolutions, DoRA's magnitudes, R alone and others."""

from __future__ import annotations

from kronq.errors import UnsupportedError, listing
from kronq.model.adapter import Adapter

DORA_FORMS = "{form=branch} and {form=merged} read the base's weights, which DoRA's norms are of"
"""What takes magnitudes, where slots do not: a hint."""


def refuse_kernels(adapter: Adapter, verb: str) -> None:
    """Refuses an adapter of convolutions.

    Args:
        adapter: Any adapter.
        verb: What cannot be done with them: ``calibration``.

    Raises:
        UnsupportedError: Some layers are convolutions; all of them are named.
    """
    layers = [name for name, delta in adapter.items() if delta.kernel]
    _refuse(adapter, layers, f"{verb} does not take convolutions")


def refuse_magnitudes(adapter: Adapter, verb: str, hint: str | None = None) -> None:
    """Refuses an adapter with DoRA's magnitudes; the hint says what takes them.

    Raises:
        UnsupportedError: Some layers have one; all of them are named.
    """
    layers = [name for name, delta in adapter.items() if delta.magnitude is not None]
    _refuse(adapter, layers, f"{verb} does not take DoRA's magnitudes", hint)


def refuse_carried(adapter: Adapter, verb: str, hint: str | None = None) -> None:
    """Refuses an adapter with trained parts that are no ΔW; the hint says what takes them.

    Raises:
        UnsupportedError: There are some; all of them are named.
    """
    message = f"{verb} does not take trained parts that are no ΔW"
    _refuse(adapter, [*adapter.carried], message, hint)


def refuse_cores(adapter: Adapter, verb: str) -> None:
    """Refuses LoRA-XS's R alone, of which there is no ΔW without its frozen bases.

    Raises:
        UnsupportedError: Some layers are R alone.
    """
    if adapter.bases is not None:
        raise UnsupportedError(
            f"{verb} needs ΔW, and of some layers the file has LoRA-XS's R alone",
            path=adapter.origin.path,
            found=f"{len(adapter.bases.layers):,} of {len(adapter):,} layers",
            expected=adapter.bases.described,
            hint="{basis} tells where they are: a file of 'kronq basis', the LoRA-XS folder, or "
            "the base as a Hugging Face folder; for web 'kronq convert --to onnx_adapter' takes it",
        )


def refuse_all_but_deltas(adapter: Adapter, verb: str, hint: str | None = None) -> None:
    """Refuses an adapter that is more than the ΔW of linear layers; the hint says what takes it.

    Raises:
        UnsupportedError: It is.
    """
    refuse_kernels(adapter, verb)
    refuse_magnitudes(adapter, verb, hint)
    refuse_carried(adapter, verb, hint)


def _refuse(adapter: Adapter, names: list[str], message: str, hint: str | None = None) -> None:
    if names:
        raise UnsupportedError(message, path=adapter.origin.path, found=listing(names), hint=hint)
