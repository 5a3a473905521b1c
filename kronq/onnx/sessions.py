"""ONNX Runtime sessions: exact arithmetic, and the operators compiled for a model's slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from kronq.errors import KronqError
from kronq.onnx.genai_config import DATA_FOLDER
from kronq.onnx.providers import EXACT, ExecutionTarget, check_provider
from kronq.onnx.slots.kernel import opened_library
from kronq.onnx.slots.slot_spec import SPEC, SlotSpec

if TYPE_CHECKING:
    import onnxruntime as ort


def open_session(
    path: Path,
    target: ExecutionTarget | None = None,
    *,
    model: bytes | None = None,
    config: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """Opens a model in ONNX Runtime.

    Args:
        path: The .onnx file; its folder holds the external data and the compiled operators.
        target: Provider and threads; None for the CPU and ONNX Runtime's number of threads.
        model: A serialized model to open in place of the file's own.
        config: Further entries of the session configuration.

    Raises:
        UnsupportedError: The compiled operators were not made on this machine.
        KronqError: ONNX Runtime cannot load the model, or not on this provider.
    """
    import onnxruntime as ort

    target = target or ExecutionTarget()
    entries = {**EXACT, **(config or {})}
    if model is not None:
        entries[DATA_FOLDER] = str(path.parent.resolve())
    options = _session_options(path.parent, entries, target.threads)
    try:
        session = ort.InferenceSession(
            str(path) if model is None else model, options, providers=target.providers
        )
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise KronqError(
            "ONNX Runtime cannot load the model", path=path, found=str(error)
        ) from error
    check_provider(session, target)
    return session


def run_session(
    session: ort.InferenceSession,
    path: Path,
    outputs: Sequence[str],
    inputs: Mapping[str, NDArray[Any]],
    options: ort.RunOptions | None = None,
) -> list[NDArray[Any]]:
    """Runs a model once.

    Args:
        session: The opened model.
        path: Its file, for errors.
        outputs: Names of the wanted outputs.
        inputs: Name → array.
        options: ONNX Runtime's options of this run.

    Raises:
        KronqError: ONNX Runtime fails; an array has a wrong shape or type.
    """
    try:
        values: list[NDArray[Any]] = session.run(outputs, dict(inputs), options)
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise KronqError(
            "ONNX Runtime cannot run the model", path=path, found=str(error)
        ) from error
    return values


def _session_options(
    folder: Path, entries: Mapping[str, str], threads: int | None
) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # every problem is raised as well
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    library = find_kernel(folder)
    if library is not None:
        try:
            options.register_custom_ops_library(str(library.absolute()))
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            raise KronqError(
                "ONNX Runtime cannot load the operators", path=library, found=str(error)
            ) from error
    return options


def find_kernel(folder: Path) -> Path | None:
    """Returns the library to open for a folder's compiled slots, or None where there are none.

    Raises:
        UnsupportedError: The folder has none for this machine, or another one than kronq's own.
    """
    if not (folder / SPEC).is_file():
        return None
    platforms = SlotSpec.read(folder).kernel
    return None if platforms is None else opened_library(folder, platforms)
