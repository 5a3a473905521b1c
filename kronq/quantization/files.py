"""Files of many adapters: found in a folder, and quantized each into a file of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kronq.errors import (
    ArgumentError,
    DiskFullError,
    KronqError,
    OutputExistsError,
    listing,
)
from kronq.io.files import check_output, write_file
from kronq.io.processes import map_stream
from kronq.packed.writer import SUFFIX, pack
from kronq.quantization.configs import Config
from kronq.quantization.quantize import quantize
from kronq.readers.find_adapters import find_adapters
from kronq.readers.load import load


@dataclass(frozen=True)
class FileJob:
    """An adapter to be quantized into a file; ``target`` is None where nothing is written."""

    source: Path
    target: Path | None


@dataclass(frozen=True)
class FileResult:
    """What became of one adapter.

    Attributes:
        job: Its paths.
        error: Why there is no file; None if there is one, and else nothing below is known.
        parameters: Trained weights.
        bytes_before: Of the adapter's file.
        nbytes: Of the packed file.
        relative_error: ‖ΔW − ΔŴ‖ / ‖ΔW‖.
    """

    job: FileJob
    error: KronqError | None = None
    parameters: int = 0
    bytes_before: int = 0
    nbytes: int = 0
    relative_error: float = 0.0


def find_jobs(folder: Path, out: Path | None, *, force: bool) -> list[FileJob]:
    """Finds the adapters in a folder: its safetensors files, and its folders with PEFT's config.

    Args:
        folder: It is searched itself, and no deeper.
        out: Folder for the packed files, each named after its adapter; None to write nothing.
        force: Whether files that exist are overwritten.

    Raises:
        ArgumentError: It is no folder of adapters, or two of them would have one name.
        OutputExistsError: A packed file exists and ``force`` is not set.
    """
    found = find_adapters(folder)
    if out is None:
        return [FileJob(path, None) for path in found]
    targets = [out / f"{path.stem if path.is_file() else path.name}{SUFFIX}" for path in found]
    if len(set(targets)) < len(targets):
        twice = [str(t) for i, t in enumerate(targets) if t in targets[:i]]
        raise ArgumentError("two adapters of one name", path=folder, found=listing(twice))
    _refuse_existing(targets, out, force=force)
    return [FileJob(*pair) for pair in zip(found, targets, strict=True)]


def _refuse_existing(targets: Sequence[Path], out: Path, *, force: bool) -> None:
    if out.suffix == SUFFIX or (out.exists() and not out.is_dir()):
        raise ArgumentError("a folder is written, not a file", path=out)
    check_output(out, force=True)
    existing = [target.name for target in targets if target.exists()]
    if existing and not force:
        raise OutputExistsError(
            f"{len(existing):,} of the outputs exist",
            path=out,
            found=listing(existing),
            hint="{force} overwrites them",
        )


def quantize_files(
    jobs: Sequence[FileJob],
    config: Config,
    reading: Mapping[str, Any],
    *,
    max_error: float | None = None,
    workers: int = 1,
    force: bool = False,
) -> Iterator[FileResult]:
    """Quantizes files; one that cannot be read or quantized does not stop the others.

    Args:
        jobs: As ``find_jobs`` finds them.
        config: As in ``quantize``.
        reading: Arguments of ``load``.
        max_error: Relative error above which no file is written; None for no limit.
        workers: Number of processes.
        force: Overwrites files that exist.

    Yields:
        The results, in the order of the jobs.
    """
    one = partial(
        _quantize_file, config=config, reading=dict(reading), max_error=max_error, force=force
    )
    return map_stream(one, jobs, workers)


def _quantize_file(
    job: FileJob,
    config: Config,
    reading: Mapping[str, Any],
    max_error: float | None,
    force: bool,
) -> FileResult:
    try:
        adapter = load(job.source, **reading)
        quantized = quantize(adapter, config)
        assert quantized.recipe is not None  # noqa: S101
        error = quantized.recipe.relative_error or 0.0
        if max_error is not None and error > max_error:
            raise KronqError(
                "the relative error of ΔW is above the limit",
                path=job.source,
                found=f"{100 * error:.3g} %",
                expected=f"{100 * max_error:g} %",
            )
        data = pack(quantized)
        if job.target is not None:
            write_file(job.target, data, force=force)
    except DiskFullError:  # the others would not fit either
        raise
    except KronqError as failure:
        return FileResult(job, failure)
    before = adapter.origin.file_bytes
    return FileResult(job, None, adapter.parameters, before, len(data), error)
