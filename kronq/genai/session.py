"""Models that run: arrays through ONNX Runtime, text through onnxruntime-genai."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, StrPath, check_type
from kronq.genai.adapter_cache import AdapterFile, AdapterSource
from kronq.genai.array_runner import ArrayRunner, Arrays, SessionReport, Shapes
from kronq.genai.generation import Generation
from kronq.genai.loaded_adapters import LoadedAdapters
from kronq.genai.prompts import Message, Prompt
from kronq.genai.sampling import GenerationSettings, Sampling, SamplingOptions
from kronq.genai.text_runner import TextRunner
from kronq.genai.token_inputs import IntArray, as_batch
from kronq.model.adapter import Adapter
from kronq.model.weighted_sum import check_strength, weighted_sum
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import choose_target
from kronq.onnx.slots.pool_inputs import ROWS
from kronq.readers.basis import fold_basis

Stop = str | Sequence[str]


class Session:
    """ONNX model, ready to run.

    Weights are read when they are first needed: ``run`` and ``logits`` open the model in
    onnxruntime, ``generate`` in onnxruntime-genai; ``tokenize`` in neither. Both compute
    DequantizeLinear + MatMul as written, not in int8.

    Args:
        path: A folder with a model (as ``kronq base`` and ``kronq export`` write it), or an .onnx
            file.
        adapters: Name → path of an adapter, or path → strength of several, as ``load`` takes them.
        device: ``auto`` (CUDA if this onnxruntime has it), ``cpu`` or ``cuda``.
        provider: Execution provider of the installed onnxruntime in place of a device, by its full
            or short name (``openvino``).
        provider_options: The provider's own options.
        threads: Threads within one operator; None leaves it to ONNX Runtime (one a core).

    Raises:
        KronqError: There is no model, or no such device or provider.
        MissingDependencyError: The installed onnxruntime lacks the provider.

    Example:
        >>> session = Session("slots", {"arc": "adapter.safetensors"}, threads=2)
        >>> session.generate("What do bees make?", adapter="arc", max_tokens=8).text
    """

    def __init__(
        self,
        path: StrPath,
        adapters: Mapping[str, AdapterSource] | None = None,
        *,
        device: str = "auto",
        provider: str | None = None,
        provider_options: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.files = find_model(path)
        self.target = choose_target(device, provider, provider_options, threads)
        self._arrays = ArrayRunner(self.files, self.target)
        self._texts = TextRunner(self.files, self.target)
        self.adapters = LoadedAdapters(self.files.folder, lambda: self._texts.model)
        for name, file in (adapters or {}).items():
            self.load(name, file)

    def __repr__(self) -> str:
        return f"<Session {self.files.model}, {self.target.provider}>"

    @property
    def report(self) -> SessionReport:
        """Provider, nodes and threads; opens the model in onnxruntime if it is not open."""
        return self._arrays.report

    @property
    def inputs(self) -> Shapes:
        """Name → shape of every required input; a name or None stands for any size."""
        return self._arrays.inputs

    @property
    def outputs(self) -> Shapes:
        """Name → shape of every output."""
        return self._arrays.outputs

    def load(
        self,
        name: str,
        path: AdapterSource,
        *,
        strength: float = 1.0,
        basis: StrPath | None = None,
        other_base: bool = False,
    ) -> AdapterFile:
        """Makes an adapter, or several that are added up, ready for ``adapter=name``.

        The model stays open.

        Args:
            name: Name to run it by.
            path: A packed file, a PEFT folder, anything else that ``kronq.load`` reads, or an
                ``.onnx_adapter``. Path → strength for the sum of several. Or an adapter in memory,
                as ``Adapter.from_state_dict`` and ``quantize`` return it.
            strength: Number that ΔW is multiplied with: 1 as trained, 0 none; beside the strengths
                of several.
            basis: Where LoRA-XS's R alone finds its frozen bases, as ``kronq.load`` takes it.
            other_base: Takes an adapter that was calibrated or tested with another base, too.

        Raises:
            KronqError: The name is taken, or there is no readable adapter.
            MismatchError: The adapter does not belong to this model, or ``basis`` to the adapter.
            UnsupportedError: The model was not exported with slots, or an ``.onnx_adapter`` has
                a strength or is one of several.

        Example:
            >>> session.load("mild", "arc.safetensors", strength=0.7)
            >>> session.load("both", {"arc.safetensors": 0.7, "style.safetensors": 0.3})
            >>> session.load("xs", "r-alone.safetensors", basis="basis.safetensors")
            >>> session.load("new", kronq.Adapter.from_state_dict(tensors, config))
        """
        if strength != 1:
            check_strength(strength)
            whole = fold_basis(path, basis) if isinstance(path, Adapter) else path
            path = _times(whole, strength)
        return self.adapters.load(name, path, basis=basis, other_base=other_base)

    def unload(self, name: str) -> None:
        """Forgets an adapter; a run with it that has begun in another thread ends well.

        Raises:
            KronqError: No adapter has this name, or a text is being generated with it.
        """
        self.adapters.unload(name)

    def run(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        *,
        adapter: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Args:
            inputs: Name → array. Inputs with a default in the graph may be left out.
            outputs: Names of the wanted outputs; None for all.
            adapter: The name of a loaded adapter; None for the base alone.

        Raises:
            KronqError: A name is missing or unknown, or an array has a wrong shape or type.
        """
        if self.adapters.is_pool and ROWS not in inputs:
            rows = next((len(array) for array in inputs.values() if array.ndim > 1), 1)
            inputs = {**inputs, **self.adapters.row_inputs(adapter, rows)}
        return self._arrays.run(inputs, outputs, self.adapters.run_options(adapter))

    def logits(
        self,
        input_ids: IntArray | Sequence[int],
        attention_mask: IntArray | None = None,
        extra: Arrays | None = None,
        *,
        adapter: str | None = None,
    ) -> NDArray[np.float32]:
        """Predicts the next token after every token, without a KV cache.

        Args:
            input_ids: [batch, tokens], or one sequence.
            attention_mask: [batch, tokens], 1 for a token and 0 for padding; None for all ones.
            extra: Other inputs of the model, e.g. adapter ids.
            adapter: The name of a loaded adapter; None for the base alone.

        Returns:
            Logits [batch, tokens, vocabulary].

        Raises:
            UnsupportedError: The model takes no tokens, gives no logits or needs more inputs.
        """
        options, given = self.adapters.run_options(adapter), dict(extra or {})
        if ROWS not in given:
            given |= self.adapters.row_inputs(adapter, len(as_batch(input_ids)))
        return self._arrays.logits(input_ids, attention_mask, given, options)

    def tokenize(self, text: str) -> list[int]:
        """Returns the token ids of a text."""
        return self._texts.encode(text)

    def detokenize(self, tokens: Sequence[int] | IntArray) -> str:
        """Returns the text of token ids."""
        return self._texts.decode(tokens)

    def chat_text(self, messages: Sequence[Message]) -> str:
        """Returns a conversation in the folder's chat template, up to the model's next answer.

        Raises:
            UnsupportedError: The folder has no genai_config.json, or no chat template.
            KronqError: A message has another form.
        """
        return self._texts.chat_text(messages)

    def generate(
        self,
        prompt: Prompt,
        *,
        adapter: str | None = None,
        max_tokens: int = 128,
        stop: Stop = (),
        chat: bool = False,
        stream: bool | Callable[[str], None] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """Continues a prompt until the model ends the text or ``max_tokens`` are reached.

        Args:
            prompt: A text; with ``chat`` a user's message; or the messages of a conversation, each
                ``{"role": …, "content": …}``, for the folder's chat template.
            adapter: The name of a loaded adapter; None for the base alone.
            max_tokens: New tokens at most.
            stop: The text ends before any of these strings.
            chat: Whether to put the prompt into the folder's chat template.
            stream: Called with each piece of text as it comes; True prints it.
            sampling: ``temperature`` (0 takes the likeliest token each time; higher is more
                varied), ``top_p`` (sample only from the likeliest tokens that make up this share),
                ``top_k`` (sample only from this many of the likeliest tokens) and ``seed`` (the
                same seed gives the same text).

        Raises:
            UnsupportedError: The folder has no genai_config.json, or no chat template.
            KronqError: A setting is out of range, no adapter has this name, or the prompt fills the
                context.
            MissingDependencyError: onnxruntime-genai is not installed, or has no CUDA.
        """
        settings = GenerationSettings(max_tokens, Sampling(**sampling), _as_list(stop))
        show = partial(print, end="", flush=True) if stream is True else stream or None
        return self._generate([prompt], settings, adapter, chat, show)[0]

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: str | None = None,
        max_tokens: int = 128,
        stop: Stop = (),
        chat: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> list[Generation]:
        """Continues several prompts side by side, with one adapter; as ``generate`` otherwise."""
        check_type("prompts", prompts, Sequence)
        if isinstance(prompts, str) or not prompts:
            raise ArgumentError("no prompts", found=repr(prompts), expected="a list of prompts")
        settings = GenerationSettings(max_tokens, Sampling(**sampling), _as_list(stop))
        return self._generate(prompts, settings, adapter, chat)

    def _generate(
        self,
        prompts: Sequence[Prompt],
        settings: GenerationSettings,
        adapter: str | None,
        chat: bool,
        stream: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        if adapter is not None:
            _ = self.adapters[adapter]  # refused before the model is read
        return self._texts.generate(
            prompts,
            settings,
            chat=chat,
            stream=stream,
            activate=lambda generator: self.adapters.activate(generator, adapter, len(prompts)),
        )


def _times(source: AdapterSource, strength: float) -> AdapterSource:
    """Returns an adapter, or a sum of several, with ΔW times a number."""
    if isinstance(source, Adapter):
        return replace(weighted_sum([(source, strength)]), base=source.base)
    parts: list[tuple[Any, Any]] = [(source, 1.0)]
    if isinstance(source, Mapping):
        parts = [*source.items()]
    for _, own in parts:
        check_strength(own)
    return {str(each): own * strength for each, own in parts}


def _as_list(stop: Stop) -> Sequence[str]:
    check_type("stop", stop, str, Sequence)
    return [stop] if isinstance(stop, str) else stop
