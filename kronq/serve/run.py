"""Runs the server until a signal, and ends the texts that it has begun."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from kronq.errors import ArgumentError
from kronq.serve.app import make_app
from kronq.serve.connections import BoundedConnection
from kronq.serve.service import Service
from kronq.serve.stepping import keep_steps_even

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def run_server(
    service: Service, host: str, port: int, drain: float, started: Callable[[str], None]
) -> None:
    """Serves until SIGTERM or Ctrl-C; texts that have begun are then written to their end.

    Args:
        service: What is served.
        host: Address to listen at.
        port: Port; 0 for any that is free.
        drain: Seconds that texts have to end; 0 for no time.
        started: Called with the server's URL before it takes requests.

    Raises:
        ArgumentError: The address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ArgumentError(
            "the address cannot be used", found=f"{host}:{port}: {error.strerror}", hint="{port}"
        ) from None
    config = server_config(service, timeout_graceful_shutdown=max(1, round(drain)))
    keep_steps_even()
    shown = f"[{host}]" if ":" in host else host
    started(f"http://{shown}:{listening.getsockname()[1]}")
    _Server(config, service).run(sockets=[listening])


def server_config(service: Service, **options: Any) -> uvicorn.Config:
    """Returns how uvicorn serves: its settings, and connections of a bound number and patience."""
    return uvicorn.Config(
        make_app(service),
        http=BoundedConnection,
        access_log=False,
        log_level="warning",
        server_header=False,
        **options,
    )


class _Server(uvicorn.Server):
    """A server that says at once, when it is to end, that it takes no more requests."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._service.draining = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
