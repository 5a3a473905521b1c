"""External data of a model: the files beside it, checked before anything reads them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import onnx_ir as ir

from kronq.errors import FormatError, UnsupportedError


def check_external_data(model: ir.Model, path: Path) -> None:
    """Refuses a model whose weights are not all in files of its own folder.

    Raises:
        FormatError: A file is missing or too short, or its name cannot be one.
        UnsupportedError: A file lies outside of the folder, or is a link that onnx refuses.
    """
    sizes = {location: _data_size(path, location) for location in external_files(model)}
    for tensor in _external_tensors(model):
        offset, length = tensor.offset or 0, tensor.nbytes
        if tensor.length is not None and tensor.length < length:
            raise FormatError(
                "a tensor's external data is shorter than the tensor",
                path=path,
                found=f"{tensor.length:,} bytes",
                expected=f"{length:,} for {tensor.name!r}",
                code="truncated",
            )
        stop = offset + (length if tensor.length is None else tensor.length)
        if offset < 0 or stop > sizes[str(tensor.location)]:
            raise FormatError(
                "the model's external data is truncated",
                path=path.parent / tensor.location,
                found=f"{sizes[str(tensor.location)]:,} bytes",
                expected=f"{stop:,} for {tensor.name!r}",
                code="truncated",
            )


def _data_size(path: Path, location: str) -> int:
    """Returns the bytes of a model's data file; refuses a file outside of the model's folder."""
    parts = PurePosixPath(location.replace("\\", "/"))
    file = path.parent / location
    try:
        inside = not parts.is_absolute() and ".." not in parts.parts
        if not inside or not file.resolve().is_relative_to(path.parent.resolve()):
            raise UnsupportedError(
                "the model's external data lies outside of its folder",
                path=path,
                found=location,
                hint="onnx refuses such links: copy the model first, with cp -rL",
                code="outside",
            )
        if not file.is_file():
            raise FormatError("the model's external data is missing", path=path, found=location)
        status = file.stat()
    except (UnsupportedError, FormatError):
        raise
    except (OSError, ValueError) as error:  # a name with a null byte, or too long
        raise FormatError(
            "the model's external data cannot be opened", path=path, found=str(error)
        ) from None
    if status.st_nlink > 1:
        raise UnsupportedError(
            "the model's external data is a hard link, which onnx refuses",
            path=path,
            found=location,
            hint="copy the model first",
            code="outside",
        )
    return status.st_size


def external_files(model: ir.Model) -> set[str]:
    """Returns the names of a model's external data files, relative to its folder."""
    return {str(tensor.location) for tensor in _external_tensors(model)}


def refuse_reserved_names(model: ir.Model, path: Path, reserved: set[str]) -> None:
    """Refuses data files whose names an export needs for itself.

    Raises:
        UnsupportedError: One of the files would be overwritten.
    """
    lowered = {name.lower() for name in reserved}
    for file in sorted(external_files(model)):
        if str(PurePosixPath(file.replace("\\", "/"))).lower() in lowered:
            raise UnsupportedError(
                "the model's external data has a name that the export needs",
                path=path,
                found=file,
                hint="save the base with another name for its data, such as model.onnx.data",
            )


def _external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    tensors = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    for node in model.graph.all_nodes():
        tensors += [a.value for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR]
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
