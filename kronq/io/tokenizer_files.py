"""Tokenizer files of a model's folder, as far as they can be told to be damaged."""

from __future__ import annotations

import json
from pathlib import Path

from kronq import limits
from kronq.errors import FormatError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def check_tokenizer(folder: Path) -> None:
    """Refuses a tokenizer's file that is no JSON object, which no program reads.

    Names twice in an object, a byte order mark and unknown settings pass: some program reads them.
    A folder without these files passes, too, as does a file that is too large to be copied.

    Raises:
        FormatError: There is one; the first is named.
    """
    for file in (folder / TOKENIZER, folder / TOKENIZER_CONFIG):
        if not file.is_file() or file.stat().st_size > limits.SIDECAR.value:
            continue
        try:
            value = json.loads(file.read_text("utf-8-sig"))
        except OSError as error:
            raise FormatError("the file cannot be read", path=file, found=error.strerror) from None
        except RecursionError:
            raise FormatError(
                "not JSON", path=file, found="lists too deep in each other", code="not-json"
            ) from None
        except ValueError as error:
            raise FormatError("not JSON", path=file, found=str(error), code="not-json") from None
        if not isinstance(value, dict):
            raise FormatError(
                "no JSON object", path=file, found=type(value).__name__, code="not-json"
            )
