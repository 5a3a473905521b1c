"""``hf://owner/name``: inputs on the Hugging Face Hub, downloaded because the user wrote that.

Nothing else downloads. huggingface_hub keeps what it fetched in its own cache, and respects
``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN``. Only formats that cannot run code are fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from kronq.errors import ArgumentError, FormatError, KronqError, NotFoundError, StrPath
from kronq.io.extras import require

Kind = Literal["adapter", "base"]
"""What is wanted from a repository."""

SCHEME = "hf://"
_PATH = re.compile(
    r"hf://(?:models/)?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/\w+/[\w.-]+|[\w.-]+))?(?:/(?P<inside>[^@]+?))?/?"
)
_SAFE = ("safetensors", "json", "txt", "jinja")
"""Endings of files that are fetched: weights and texts, never a pickle."""
_MODELS = ("onnx", "onnx.data", "onnx_data", "onnx_adapter", "gguf")
"""Endings that are fetched as well where a folder or file of the repository is named: a repository
may hold the same model in a dozen widths."""
_WHOLE_MODELS = ("model*.safetensors", "*/model*.safetensors", "*pytorch_model*", "consolidated*")
"""Weights of bases, which are not fetched for an adapter."""


@dataclass(frozen=True)
class HubPath:
    """A place on the Hub.

    Attributes:
        repo: ``owner/name``.
        revision: Branch, tag or commit; None for the default branch.
        inside: File or folder in the repository; None for all of it.
    """

    repo: str
    revision: str | None = None
    inside: str | None = None


def is_hub_path(path: StrPath) -> bool:
    """Tells whether a path is a place on the Hub, written as ``hf://…``."""
    return isinstance(path, str) and path.startswith(SCHEME)


def parse_hub_path(text: str) -> HubPath:
    """Reads ``hf://owner/name[@revision][/file or folder]``.

    Raises:
        ArgumentError: It has another form.
    """
    match = _PATH.fullmatch(text)
    inside = match["inside"] if match else None
    if match is None or ".." in PurePosixPath(inside or "").parts or "*" in (inside or ""):
        raise ArgumentError(
            "not a place on the Hub", found=repr(text), expected="hf://owner/name[@revision][/file]"
        )
    return HubPath(match["repo"], match["revision"], inside)


def check_hub_path(text: str) -> HubPath:
    """Checks a place's form and that huggingface_hub is installed, without a network.

    Raises:
        ArgumentError: It has another form.
        MissingDependencyError: huggingface_hub is not installed.
    """
    place = parse_hub_path(text)
    require("hub", SCHEME)
    return place


def fetch(text: str, kind: Kind) -> Path:
    """Downloads a place on the Hub, or finds it in huggingface_hub's cache.

    Args:
        text: ``hf://owner/name[@revision][/file or folder]``.
        kind: Of an adapter's repository no base's weights are fetched.

    Returns:
        The folder, or the file, in the cache.

    Raises:
        ArgumentError: The text has another form.
        NotFoundError: There is no such repository, revision or file; or it is not in the cache, and
            there is no network or ``HF_HUB_OFFLINE`` is set.
        FormatError: The file is of a kind that is never fetched.
        MissingDependencyError: huggingface_hub is not installed.
    """
    place = check_hub_path(text)
    import huggingface_hub

    patterns = _patterns(place)
    if not patterns:
        raise FormatError(
            "a file that is never fetched",
            path=text,
            expected=", ".join((*_SAFE, *_MODELS)),
            code="pickle",
        )
    try:
        folder = huggingface_hub.snapshot_download(
            place.repo,
            revision=place.revision,
            allow_patterns=patterns,
            ignore_patterns=list(_WHOLE_MODELS) if kind == "adapter" else None,
        )
    except (OSError, ValueError, huggingface_hub.errors.EntryNotFoundError) as error:
        raise _failure(text, error) from None
    found = Path(folder, place.inside or "")
    if not found.exists():
        raise NotFoundError("not in the repository, or no safe format", path=text)
    return found


def _patterns(place: HubPath) -> list[str]:
    """Returns globs of the files to fetch; none for a file of a kind that is never fetched."""
    inside = place.inside
    if inside is None:
        return [f"*.{ending}" for ending in _SAFE]
    suffix = PurePosixPath(inside).suffix.lstrip(".")
    if suffix in (*_SAFE, *_MODELS):
        parent = inside.rpartition("/")[0]
        beside = f"{parent}/*.json" if parent else "*.json"
        return [inside, f"{inside}.data", f"{inside}_data", beside]
    if suffix in ("bin", "pt", "pth", "ckpt", "pkl", "pickle", "msgpack", "h5", "zip"):
        return []
    return [f"{inside}/*.{ending}" for ending in (*_SAFE, *_MODELS)]


def _failure(text: str, error: Exception) -> KronqError:
    """Returns the error of a download: huggingface_hub's first line, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return NotFoundError(
        "not to be had from the Hub",
        path=text,
        found=f"{type(error).__name__}: {lines[0] if lines else 'no message'}",
        hint="is the name right, HF_HUB_OFFLINE unset, and for a gated one HF_TOKEN set?",
    )
