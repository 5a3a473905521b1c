"""Requests that are refused, with the answer that OpenAI's clients understand."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from kronq.errors import printable

if TYPE_CHECKING:
    from starlette.responses import JSONResponse

RETRY_SECONDS = 1
"""Time after which a client of a full server may try again."""
_LONGEST = 1000
"""Characters of a message, which may have values of the request in it."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class RefusedError(Exception):
    """A request that gets no text.

    Args:
        status: HTTP status.
        message: What is wrong.
        param: The field that is.
        code: OpenAI's code for it.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = printable(message[:_LONGEST])
        self.param = param
        self.code = code

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        ours = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        kind = _TYPES.get(self.status, "server_error" if ours else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        from starlette.responses import JSONResponse

        headers = {}
        if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def no_such_model(name: str) -> RefusedError:
    return RefusedError(
        404,
        f"The model `{name[:200]}` does not exist: neither the base nor an adapter",
        param="model",
        code="model_not_found",
    )
