"""Forms of an exported model: open slots, branches in the graph, or merged weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from kronq.errors import ArgumentError
from kronq.onnx.genai_config import GENAI_CONFIG

FormName = Literal["branch", "merged", "slots"]


@dataclass(frozen=True)
class Slots:
    """Open slots: the adapter is given when the model runs, and can be swapped.

    Attributes:
        compiled: One compiled operator for each group of layers, from a library in the folder: the
            fastest, on machines of this one's kind. It comes with kronq's wheel, or is
            compiled here by the C compiler.
    """

    name: ClassVar[FormName] = "slots"
    compiled: bool = False


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


Form = Slots | Branch | Merged

_FORMS: dict[str, Form] = {form.name: form for form in (Slots(), Branch(), Merged())}


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
    if isinstance(form, Slots | Branch | Merged):
        return form
    if form not in _FORMS:
        raise ArgumentError("no such form", found=form, expected=" or ".join(get_args(FormName)))
    return _FORMS[form]
