"""Forms of an exported model: open slots, rows of a pool, branches in the graph, merged weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from kronq.errors import ArgumentError
from kronq.onnx.genai_config import GENAI_CONFIG
from kronq.onnx.slots.kernel import check_platforms

FormName = Literal["branch", "merged", "pool", "slots"]


@dataclass(frozen=True)
class Slots:
    """Open slots: the adapter is given when the model runs, and can be swapped.

    Attributes:
        compiled: One compiled operator for each group of layers, from a library in the folder: the
            fastest, on the CPU of the platforms that have one there. False is ONNX's own operators,
            which run anywhere. None is the compiled operator for a language model, where it
            can be had, takes the base, and this onnxruntime runs models on the CPU.
        platforms: Those whose library is put in the folder, ``linux-x64`` or the like, or ``all``,
            from kronq's wheel. Empty is this machine's, which a C compiler makes where kronq was
            installed without it.

    Raises:
        ArgumentError: There is no such platform, or platforms are given without the operator.
    """

    name: ClassVar[FormName] = "slots"
    compiled: bool | None = None
    platforms: Sequence[str] = ()

    def __post_init__(self) -> None:
        _set_platforms(self)


@dataclass(frozen=True)
class Pooled:
    """Slots whose adapter each row of a batch names: by where its record begins in a pool.

    Attributes:
        platforms: As of ``Slots``.
        compiled: The compiled operator, on the CPU of the platforms whose library is in the folder,
            which reads the records of a pool as they are. False is ONNX's own operators, which run
            anywhere and take an adapter's factors as floats. None is the compiled operator where
            it can be had and takes the base.

    Raises:
        ArgumentError: There is no such platform, or platforms are given without the operator.
    """

    name: ClassVar[FormName] = "pool"
    platforms: Sequence[str] = ()
    compiled: bool | None = None

    def __post_init__(self) -> None:
        _set_platforms(self)


@dataclass(frozen=True)
class Branch:
    """Branches: the adapter's factors beside the base's layers, whose weights stay untouched."""

    name: ClassVar[FormName] = "branch"


@dataclass(frozen=True)
class Merged:
    """Merged weights: W + ΔW, stored as the base stores W.

    Attributes:
        allow_loss: Whether a base may be written that keeps less than 90 % of ΔW, because its
            weights are rounded more coarsely than ΔW is large.
        keep_zeros: Whether ΔW is left out where the base's weight is exactly zero: the ΔW that
            LoSA trains on a pruned base, which stays as sparse as it is.
    """

    name: ClassVar[FormName] = "merged"
    allow_loss: bool = False
    keep_zeros: bool = False


def _set_platforms(form: Slots | Pooled) -> None:
    """Makes one platform a sequence of one, and refuses those that the operator is not for."""
    if isinstance(form.platforms, str):
        object.__setattr__(form, "platforms", (form.platforms,))
    if form.platforms and form.compiled is False:
        raise ArgumentError("platforms are of the compiled operator, and {compiled=False}")
    check_platforms(form.platforms)


Form = Slots | Pooled | Branch | Merged

_FORMS: dict[str, Form] = {form.name: form for form in (Slots(), Pooled(), Branch(), Merged())}


def choose_form(form: FormName | Form | None, base: Path) -> Form:
    """Returns the form asked for; None is slots for a language model, else branches.

    Args:
        form: A form, or its name with default settings.
        base: The base's .onnx file; a language model has genai_config.json beside it.

    Raises:
        ArgumentError: No form has this name.
    """
    if form is None:
        return Slots() if (base.parent / GENAI_CONFIG).is_file() else Branch()
    if isinstance(form, Form):
        return form
    if form not in _FORMS:
        raise ArgumentError("no such form", found=form, expected=" or ".join(get_args(FormName)))
    return _FORMS[form]
