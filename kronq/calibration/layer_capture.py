"""Inputs and outputs of adapted layers, captured by hooks in torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kronq.calibration.batches import Batch
from kronq.calibration.torch_model import answer_logits, model_device, to_torch_batch
from kronq.errors import UnsupportedError

if TYPE_CHECKING:
    import torch


class LayerCapture:
    """Context manager that keeps inputs and outputs of the last forward pass, by layer.

    Args:
        model: The causal language model, frozen.
        modules: Layer → its module.
    """

    def __init__(self, model: Any, modules: Mapping[str, torch.nn.Module]) -> None:
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self.model = model
        self.modules = modules
        self._handles: list[Any] = []

    def __enter__(self) -> LayerCapture:
        for layer, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._hook(layer)))
        # All weights are frozen: gradients are kept from the embedding's output on.
        embedding = self.model.get_input_embeddings()
        self._handles.append(embedding.register_forward_hook(lambda _, __, y: y.requires_grad_()))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.clear()

    def clear(self) -> None:
        self.inputs.clear()
        self.outputs.clear()

    def answer_logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the model like ``answer_logits``, with every adapted layer at every position.

        Raises:
            UnsupportedError: A layer reads only some of the tokens, as experts do.
        """
        everywhere = any(m is self.model.get_output_embeddings() for m in self.modules.values())
        inputs = to_torch_batch(batch, model_device(self.model))
        logits = answer_logits(self.model, inputs, everywhere=everywhere)
        for layer in self.modules:
            x = self.inputs.get(layer)
            if x is None or x.shape[:2] != batch.ids.shape:
                raise UnsupportedError(
                    "the layer does not read every token",
                    layer=layer,
                    found=None if x is None else list(x.shape),
                    hint="calibrate its inputs alone, through an ONNX base",
                )
        return logits

    def _hook(self, layer: str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
            if layer in self.inputs:
                raise UnsupportedError("the model uses the layer more than once", layer=layer)
            self.inputs[layer], self.outputs[layer] = args[0], output

        return hook
