"""Runs an adapter in an opened pipeline of optimum-onnx whose models have slots.

optimum-onnx gives a session its inputs and nothing else, so one that adds the adapter's stands
before it. On a GPU it binds inputs to the device instead, where ONNX Runtime leaves an adapter out:
that is refused, as the base would run without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from kronq.errors import ArgumentError, StrPath, UnsupportedError
from kronq.model.adapter import Adapter
from kronq.onnx.base_prints import read_prints
from kronq.onnx.pipeline.parts import DENOISERS, split_adapter
from kronq.onnx.slots.slot_inputs import slot_inputs
from kronq.onnx.slots.slot_spec import SlotSpec

if TYPE_CHECKING:
    import onnxruntime as ort

_PARTS = (*DENOISERS, "text_encoder", "text_encoder_2", "text_encoder_3")


class AdaptedSession:
    """An ONNX Runtime session that runs with an adapter in its slots.

    Attributes:
        base: The session without it.
    """

    def __init__(self, base: ort.InferenceSession, inputs: Mapping[str, NDArray[Any]]) -> None:
        self.base = base
        self._inputs = dict(inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def run(self, outputs: Any, inputs: Mapping[str, Any], options: Any = None) -> Any:
        """Runs the session with the adapter."""
        return self.base.run(outputs, {**inputs, **self._inputs}, options)

    def run_with_iobinding(self, *_: Any, **__: Any) -> None:
        """Refuses to run: bound inputs leave the adapter out.

        Raises:
            UnsupportedError: Always.
        """
        raise _binding_error("the session")


def adapt_pipeline(
    pipeline: Any, adapter: Adapter | StrPath | None, *, other_base: bool = False
) -> None:
    """Puts an adapter into a pipeline's slots, in place of the one before.

    Args:
        pipeline: An opened pipeline of optimum-onnx, of a folder that ``export_pipeline`` wrote
            with slots.
        adapter: Any adapter whose layers have slots, or its file or folder; None for the base.
        other_base: Takes an adapter that was calibrated or tested with another base, too.

    Raises:
        MismatchError: The adapter has layers without a slot, or of other shapes, or is for another
            base.
        UnsupportedError: A model has no slots, or the pipeline binds its inputs to a device; or the
            adapter has DoRA's magnitudes or trained parts that are no ΔW.

    Example:
        >>> pipeline = ORTStableDiffusionPipeline.from_pretrained("sd15-slots")
        >>> kronq.adapt_pipeline(pipeline, "style.safetensors")
        >>> pipeline("a fox in the snow").images[0].save("fox.png")
    """
    models = {name: model for name in _PARTS if (model := getattr(pipeline, name, None))}
    if not models.keys() & {*DENOISERS}:
        raise ArgumentError("not a pipeline", expected="one of optimum-onnx, with a unet")
    given: dict[str, dict[str, NDArray[Any]]] = {}
    if adapter is not None:
        for part in split_adapter(_load(adapter), [*models]):
            if getattr(models[part.name], "use_io_binding", False):
                raise _binding_error(part.name)
            folder = Path(_base(models[part.name])._model_path).parent
            if not other_base:
                read_prints(folder).check(part.adapter)
            given[part.name] = slot_inputs(part.adapter, SlotSpec.read(folder))
    for name, model in models.items():
        session = _base(model)
        model.session = AdaptedSession(session, given[name]) if name in given else session


def _load(adapter: Adapter | StrPath) -> Adapter:
    if isinstance(adapter, Adapter):
        return adapter
    from kronq.readers.load import load

    return load(adapter)


def _base(model: Any) -> Any:
    session = model.session
    return session.base if isinstance(session, AdaptedSession) else session


def _binding_error(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what} binds its inputs to a device, where ONNX Runtime leaves an adapter out",
        hint="open the pipeline with use_io_binding=False",
    )
