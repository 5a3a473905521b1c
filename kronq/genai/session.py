"""A model that runs: arrays through ONNX Runtime, text through onnxruntime-genai."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kronq.errors import ArgumentError, KronqError, StrPath, UnsupportedError, listing
from kronq.genai import generation
from kronq.genai.adapters import Adapters
from kronq.genai.generation import Generation, Sampling
from kronq.genai.prepared import Prepared
from kronq.genai.prompts import Prompt, encode_prompt
from kronq.genai.token_inputs import IntArray, as_batch, token_inputs
from kronq.onnx.model_files import find_model
from kronq.onnx.providers import check_provider, choose, node_counts
from kronq.onnx.sessions import session_options

if TYPE_CHECKING:
    import onnxruntime as ort
    import onnxruntime_genai as og


@dataclass(frozen=True)
class SessionReport:
    """How a session runs.

    Attributes:
        model: The .onnx file.
        provider: The execution provider that comes first.
        nodes: Nodes of the optimized graph by the provider that runs them.
        threads: Threads within one operator; None where ONNX Runtime chose.
    """

    model: Path
    provider: str
    nodes: Mapping[str, int]
    threads: int | None


class Session:
    """An ONNX model, ready to run.

    Weights are read when they are first needed: ``run`` and ``logits`` open the model in
    onnxruntime, ``generate`` in onnxruntime-genai; ``tokenize`` in neither. Both compute
    DequantizeLinear + MatMul as written, not in int8.

    Args:
        path: A folder with a model (what ``kronq base`` and ``kronq export`` write), or an .onnx
            file.
        device: ``auto`` (CUDA if this onnxruntime has it), ``cpu`` or ``cuda``.
        provider: Instead of a device, an execution provider of the installed onnxruntime, by its
            full or short name (``openvino``).
        provider_options: Its own options.
        threads: Threads within one operator; None leaves it to ONNX Runtime (one a core).
        adapters: Name → path of what ``load`` takes.

    Raises:
        KronqError: No model there, or no such device or provider.
        MissingDependencyError: What was asked for is not there.
    """

    def __init__(
        self,
        path: StrPath,
        adapters: Mapping[str, StrPath] | None = None,
        *,
        device: str = "auto",
        provider: str | None = None,
        provider_options: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ArgumentError("not a number of threads", found=threads, expected="1 or more")
        self.files = find_model(path)
        self.threads = threads
        self.place = choose(device, provider, provider_options)
        self.adapters = Adapters(self.files.folder, lambda: self._text_model[0])
        for name, file in (adapters or {}).items():
            self.load(name, file)

    def __repr__(self) -> str:
        return f"<Session {self.files.model}, {self.place.provider}>"

    @cached_property
    def _session(self) -> ort.InferenceSession:
        import onnxruntime as ort

        options = session_options(self.files.folder, self.threads)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = ort.InferenceSession(
                str(self.files.model), options, providers=self.place.providers
            )
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            raise KronqError(
                "ONNX Runtime cannot load the model", path=self.files.model, found=str(error)
            ) from error
        check_provider(session, self.place)
        return session

    @cached_property
    def _tokenizer(self) -> og.Tokenizer:
        return generation.load_tokenizer(self.files)

    @cached_property
    def _text_model(self) -> tuple[og.Model, str]:
        return generation.load_text_model(self.files, self.place, self.threads)

    @cached_property
    def report(self) -> SessionReport:
        """Where the model runs; opens it in onnxruntime if it is not open."""
        return SessionReport(
            model=self.files.model,
            provider=check_provider(self._session, self.place),
            nodes=node_counts(self._session),
            threads=self.threads,
        )

    @property
    def inputs(self) -> dict[str, list[int | str | None]]:
        """Name → shape of every input that must be given; a name or None stands for any size."""
        return {node.name: list(node.shape) for node in self._session.get_inputs()}

    @property
    def outputs(self) -> dict[str, list[int | str | None]]:
        """Name → shape of every output."""
        return {node.name: list(node.shape) for node in self._session.get_outputs()}

    def load(self, name: str, path: StrPath) -> Prepared:
        """Makes an adapter ready for ``adapter=name``; the model stays as it is.

        Args:
            name: What it is called from now on.
            path: A packed file, a PEFT folder, anything else that ``kronq.load`` reads, or an
                ``.onnx_adapter``.

        Raises:
            KronqError: The name is taken, or nothing readable is there.
            MismatchError: The adapter does not belong to this model.
            UnsupportedError: The model was not exported with slots.
        """
        return self.adapters.load(name, path)

    def unload(self, name: str) -> None:
        """Forgets an adapter."""
        self.adapters.unload(name)

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
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
            KronqError: A name that is missing or unknown, or an array of a wrong shape or type.
        """
        session = self._session
        optional = {node.name for node in session.get_overridable_initializers()}
        missing = self.inputs.keys() - inputs.keys()
        unknown = inputs.keys() - self.inputs.keys() - optional
        if missing or unknown:
            raise ArgumentError(
                "inputs missing" if missing else "unknown inputs",
                path=self.files.model,
                found=listing(missing or unknown),
                expected=listing(self.inputs),
            )
        names = list(self.outputs) if outputs is None else list(outputs)
        if strange := set(names) - self.outputs.keys():
            raise ArgumentError(
                "unknown outputs",
                path=self.files.model,
                found=listing(strange),
                expected=listing(self.outputs),
            )
        options = self.adapters.options(adapter)
        try:
            values = session.run(names, dict(inputs), options)
        except Exception as error:  # as above
            raise KronqError(
                "ONNX Runtime cannot run the model", path=self.files.model, found=str(error)
            ) from error
        return dict(zip(names, values, strict=True))

    def logits(
        self,
        input_ids: IntArray | Sequence[int],
        attention_mask: IntArray | None = None,
        extra: Mapping[str, NDArray[Any]] | None = None,
        *,
        adapter: str | None = None,
    ) -> NDArray[np.float32]:
        """What a language model predicts after every token, with nothing cached.

        Args:
            input_ids: [batch, tokens], or one sequence.
            attention_mask: [batch, tokens], 1 for a token and 0 for padding; None for all ones.
            extra: Other inputs of the model, e.g. adapter ids.
            adapter: The name of a loaded adapter; None for the base alone.

        Returns:
            [batch, tokens, vocabulary].

        Raises:
            UnsupportedError: The model takes no tokens, gives no logits or needs more inputs.
        """
        if "logits" not in self.outputs:
            raise UnsupportedError(
                "not a language model: no output named logits",
                path=self.files.model,
                found=listing(self.outputs),
                hint="Session.run gives any outputs",
            )
        others = dict(extra or {})
        feed = token_inputs(self._session, self.files, as_batch(input_ids), attention_mask, others)
        found = self.run(feed | others, ["logits"], adapter=adapter)["logits"]
        return found.astype(np.float32, copy=False)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def detokenize(self, tokens: Sequence[int] | IntArray) -> str:
        """The text of token ids."""
        return str(self._tokenizer.decode(np.asarray(tokens, np.int32)))

    def generate(
        self,
        prompt: Prompt,
        *,
        adapter: str | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        chat: bool = False,
        stream: bool | Callable[[str], None] | None = None,
    ) -> Generation:
        """Continues a prompt until the model ends the text or ``max_tokens`` are there.

        Args:
            prompt: A text; with ``chat`` a user's message; or the messages of a conversation, each
                ``{"role": …, "content": …}``, for the folder's chat template.
            adapter: The name of a loaded adapter; None for the base alone.
            max_tokens: At most this many new tokens.
            temperature: 0 takes the likeliest token each time; higher is more varied.
            top_p: Sample only from the likeliest tokens that make up this share.
            top_k: Sample only from this many of the likeliest tokens.
            seed: The same seed gives the same text.
            stop: The text ends before any of these strings.
            chat: Put the prompt into the folder's chat template.
            stream: Called with each piece of text as it comes; True prints it.

        Raises:
            UnsupportedError: The folder has no genai_config.json, or no chat template.
            KronqError: An impossible setting, no such adapter, or the prompt fills the context.
            MissingDependencyError: onnxruntime-genai is not installed, or has no CUDA.
        """
        show = partial(print, end="", flush=True) if stream is True else stream or None
        sampling = Sampling(temperature, top_p, top_k, seed)
        texts = self._generate([prompt], adapter, max_tokens, sampling, stop, chat, show)
        return texts[0]

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        adapter: str | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        chat: bool = False,
    ) -> list[Generation]:
        """Continues several prompts side by side, with one adapter; as ``generate`` otherwise."""
        if isinstance(prompts, str) or not prompts:
            raise ArgumentError("no prompts", found=repr(prompts), expected="a list of prompts")
        sampling = Sampling(temperature, top_p, top_k, seed)
        return self._generate(prompts, adapter, max_tokens, sampling, stop, chat, None)

    def _generate(
        self,
        prompts: Sequence[Prompt],
        adapter: str | None,
        max_tokens: int,
        sampling: Sampling,
        stop: str | Sequence[str],
        chat: bool,
        stream: Callable[[str], None] | None,
    ) -> list[Generation]:
        if adapter is not None:
            _ = self.adapters[adapter]  # refused before the model is read
        ids = [encode_prompt(self._tokenizer, prompt, chat) for prompt in prompts]
        model, provider = self._text_model
        return generation.generate(
            model,
            self._tokenizer,
            ids,
            max_tokens=max_tokens,
            context=int(self.files.genai["model"]["context_length"]),
            sampling=sampling,
            provider=provider,
            stop=[stop] if isinstance(stop, str) else stop,
            stream=stream,
            prepare=lambda generator: self.adapters.activate(generator, adapter),
        )
