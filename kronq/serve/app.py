"""The server's paths as a Starlette application."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kronq.errors import KronqError
from kronq.serve.adapters import load_adapter, unload_adapter
from kronq.serve.refusal import RefusedError
from kronq.serve.texts import chat, complete

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kronq.serve.service import Service

    Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(service: Service) -> Starlette:
    """Returns the application; it starts the engine's thread and ends it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.stepping.start()
        try:
            yield
        finally:
            service.stepping.stop()

    routes = [
        Route("/health", _health),
        Route("/ready", _ready),
        Route("/metrics", _metrics),
        Route("/v1/models", _checked(_models)),
        Route("/v1/models/{name:path}", _checked(_model)),
        Route("/v1/completions", _checked(complete), methods=["POST"]),
        Route("/v1/chat/completions", _checked(chat), methods=["POST"]),
    ]
    if service.options.runtime_loading:
        routes += [
            Route("/v1/load_lora_adapter", _checked(load_adapter), methods=["POST"]),
            Route("/v1/unload_lora_adapter", _checked(unload_adapter), methods=["POST"]),
        ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*service.options.hosts])],
        exception_handlers={
            RefusedError: _refuse,
            KronqError: _tell_error,
            HTTPException: _refuse_path,
        },
    )
    app.state.service = service
    return app


def _checked(endpoint: Endpoint) -> Endpoint:
    """Returns a path that wants one of the server's keys, where it has any."""

    async def checked(request: Request) -> Response:
        service: Service = request.app.state.service
        keys = [key.encode() for key in service.options.api_keys]
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        found = given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        # All are compared, so that the time does not tell which.
        if keys and not sum(hmac.compare_digest(found, key) for key in keys):
            raise RefusedError(401, "Incorrect API key provided", code="invalid_api_key")
        return await endpoint(request)

    return checked


async def _health(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.stepping.failed:
        return PlainTextResponse("the engine has failed\n", 503)
    return PlainTextResponse("ok\n")


async def _ready(request: Request) -> Response:
    service: Service = request.app.state.service
    if not service.ready:
        return PlainTextResponse("not ready\n", 503)
    return PlainTextResponse("ready\n")


async def _metrics(request: Request) -> Response:
    page, kind = request.app.state.service.metrics.page()
    return Response(page, media_type=kind)


async def _models(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse({"object": "list", "data": list(service.catalog.models())})


async def _model(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse(service.catalog.model(request.path_params["name"]))


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101  # Starlette calls it with no other
    service: Service = request.app.state.service
    service.metrics.count_request(error.status)
    return error.response()


async def _tell_error(_: Request, error: Exception) -> Response:
    """Answers with an error of the server's own side, such as a pool that was damaged."""
    assert isinstance(error, KronqError)  # noqa: S101  # Starlette calls it with no other
    return RefusedError(500, error.message).response()


async def _refuse_path(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # Starlette calls it with no other
    return RefusedError(error.status_code, str(error.detail)).response()
