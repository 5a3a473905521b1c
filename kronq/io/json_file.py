"""JSON of a model's folder, read in one way: one object, each name once, not too deep."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kronq import limits
from kronq.errors import FormatError, KronqError, NotFoundError, StrPath, check_text

MAX_DEPTH = 100
"""Levels of objects and lists in each other."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: StrPath) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It cannot be read, is no JSON object, too deep or too large, or has a name
            twice in an object.
    """
    file = Path(path)
    try:
        limits.JSON.check(file.stat().st_size, path)
        text = file.read_text("utf-8")
        value = json.loads(text, object_pairs_hook=refuse_repeated_names)
        _check_depth(value)
    except FileNotFoundError:
        raise NotFoundError("no such file", path=path) from None
    except OSError as error:
        raise FormatError("the file cannot be read", path=path, found=error.strerror) from None
    except RecursionError:
        raise FormatError(
            "not JSON", path=path, found="objects too deep in each other", code="not-json"
        ) from None
    except KronqError:
        raise
    except ValueError as error:
        raise FormatError("not JSON", path=path, found=str(error), code="not-json") from None
    if _SURROGATE.search(text):
        check_text("the JSON", json.dumps(value, ensure_ascii=False), path)
    if not isinstance(value, dict):
        raise FormatError("no JSON object", path=path, found=type(value).__name__, code="not-json")
    return value


def refuse_damaged_json(folder: Path) -> None:
    """Refuses a folder with a file that is not JSON, after a library failed and named no file.

    Raises:
        FormatError: There is one; the first is named.
    """
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise FormatError("not JSON", path=file, found=str(error), code="not-json") from None
        except OSError:
            continue


def refuse_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a JSON object for ``json.loads``, whose ``object_pairs_hook`` it is.

    Raises:
        ValueError: A name occurs twice, which JSON forbids and Python allows.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            part
            for parent in level
            for part in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(part, dict | list)
        ]
        if not level:
            return
    raise ValueError("objects too deep in each other")
