"""``/v1/completions`` and ``/v1/chat/completions``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from kronq.errors import KronqError
from kronq.serve.answer import Answer
from kronq.serve.bodies import Bodies
from kronq.serve.bodies_read import read_json
from kronq.serve.fields import ChatFields, CompletionFields, TextFields, parse_fields
from kronq.serve.refusal import RefusedError

if TYPE_CHECKING:
    from kronq.serve.service import Service

DIGEST = "X-Kronq-Adapter-Digest"
"""Header with the SHA-256 of the adapter that answered; ``base`` where none did."""
_CLOSED = 499
"""Status, in the counts alone, of a request whose client has gone."""


async def complete(request: Request) -> Response:
    """Continues texts."""
    fields = parse_fields(CompletionFields, await read_json(request))
    service: Service = request.app.state.service
    answer = await service.start(fields, fields.prompts, fields.max_tokens or 16)
    return await _respond(request, answer, fields, len(fields.prompts), chat=False)


async def chat(request: Request) -> Response:
    """Answers a conversation."""
    fields = parse_fields(ChatFields, await read_json(request))
    service: Service = request.app.state.service
    prompt = [message.plain for message in fields.messages]
    limit = fields.max_completion_tokens or fields.max_tokens
    answer = await service.start(fields, [prompt], limit)
    return await _respond(request, answer, fields, 1, chat=True)


async def _respond(
    request: Request, answer: Answer, fields: TextFields, prompts: int, *, chat: bool
) -> Response:
    service: Service = request.app.state.service
    bodies = Bodies(fields.model, chat=chat)
    digest = answer.adapter.digest if answer.adapter else None
    headers = {DIGEST: f"sha256:{digest}" if digest else "base"}
    if fields.stream:
        pieces = _stream(service, answer, bodies, prompts, usage=fields.usage_wanted)
        headers["Cache-Control"] = "no-cache"
        return _Stream(answer, pieces, 200, headers, media_type="text/event-stream")
    if not await _wait(request, answer):
        service.metrics.count_request(_CLOSED)
        return Response(status_code=_CLOSED)
    try:
        generations = [job.generation for job in answer.jobs]
    except KronqError as error:
        raise RefusedError(500, str(error)) from None
    service.count(answer)
    return JSONResponse(bodies.whole(generations, prompts), headers=headers)


class _Stream(StreamingResponse):
    """A stream whose rows are free as soon as it ends, also where it never began."""

    def __init__(self, answer: Answer, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


async def _wait(request: Request, answer: Answer) -> bool:
    """Waits for an answer; returns False, and frees its rows, where the client has gone."""
    done = asyncio.create_task(answer.wait())
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        return done.done()
    finally:
        answer.cancel()
        for task in (done, gone):
            task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    service: Service, answer: Answer, bodies: Bodies, prompts: int, *, usage: bool
) -> AsyncIterator[str]:
    """Yields an answer as server-sent events."""
    try:
        for index in range(len(answer.jobs)):
            if (start := bodies.start(index)) is not None:
                yield _event(start)
        async for index, news in answer.news():
            if isinstance(news, str):
                yield _event(bodies.piece(index, news))
            else:
                yield _event(bodies.end(index, news.generation))
        if usage:
            yield _event(bodies.usage([job.generation for job in answer.jobs], prompts))
        service.count(answer)
    except KronqError as error:
        service.metrics.count_request(500)
        yield _event(RefusedError(500, str(error)).body)
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
