"""Bodies of requests, read up to a limit."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from kronq import limits
from kronq.io.json_file import refuse_repeated_names
from kronq.serve.refusal import RefusedError

_SECONDS = 60.0
"""In which a body has to arrive."""


async def read_json(request: Request) -> Any:
    """Reads a body of JSON.

    A body of another type is refused: a page in a browser can send such a one to this machine
    without being asked whether it may.

    Raises:
        RefusedError: It is no JSON, larger than ``limits.REQUEST``, or takes too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, "the body has to be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > limits.REQUEST.value:
                    most = f"{limits.REQUEST.value:,} bytes"
                    raise RefusedError(413, f"the body is larger than {most}")
    except TimeoutError:
        raise RefusedError(408, f"the body did not arrive in {_SECONDS:g} s") from None
    return parse_json(body)


def parse_json(body: bytes | bytearray) -> Any:
    """Reads JSON whose texts can be written as UTF-8.

    Raises:
        RefusedError: It is none.
    """
    try:
        data = json.loads(body, object_pairs_hook=refuse_repeated_names)
        if b"\\ud" in body.lower():  # escapes can name half of a surrogate pair, which is no text
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is no JSON: {error}") from None
    return data
