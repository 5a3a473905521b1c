"""How every model is opened in ONNX Runtime: exact arithmetic, and the operators that it brings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from kronq.errors import KronqError
from kronq.onnx.slots.kernel import check_library
from kronq.onnx.slots.spec import SPEC, Slots

# Without this ONNX Runtime rewrites a constant DequantizeLinear + MatMul to int8 arithmetic:
# a relative error of 4e-3 where 3e-7 was asked for, and nothing says so.
EXACT: Mapping[str, str] = {"session.qdq_matmulnbits_accuracy_level": "0"}


def session_options(
    folder: Path, threads: int | None = None, *, inline: bool = False
) -> ort.SessionOptions:
    """Options for a model of a folder.

    Args:
        folder: Where the model lies.
        threads: Threads within one operator; None leaves it to ONNX Runtime (one a core).
        inline: The model is given as bytes, and its external data lies in the folder.

    Raises:
        UnsupportedError: Its compiled operators were not made on this machine.
        KronqError: ONNX Runtime does not take them.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    for key, value in EXACT.items():
        options.add_session_config_entry(key, value)
    if inline:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder.resolve()))
    if threads is not None:
        options.intra_op_num_threads = threads
    library = kernel_of(folder)
    if library is not None:
        try:
            options.register_custom_ops_library(str(library.absolute()))
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            raise KronqError(
                "ONNX Runtime cannot load the operators", path=library, found=str(error)
            ) from error
    return options


def kernel_of(folder: Path) -> Path | None:
    """The library with the operators of a folder's slots, if they are compiled ones.

    Raises:
        UnsupportedError: It was not made on this machine.
    """
    if not (folder / SPEC).is_file():
        return None
    name = Slots.read(folder).kernel
    if name is None:
        return None
    library = folder / Path(name).name
    check_library(library)
    return library
