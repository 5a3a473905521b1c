"""The server as an application of Ray Serve, which starts its replicas and sends them requests.

    serve run kronq.serve.ray:application path=/models/app pool=/pools/pool num_replicas=2

Each replica is a server of its own with the whole pool, so that it does not matter which of them
answers. Starting, watching and replacing them is Ray's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from kronq.errors import ArgumentError
from kronq.io.extras import require
from kronq.serve import KEY

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.applications import Starlette


class ReplicaSettings(BaseModel):
    """Settings of an application.

    Attributes:
        path: The model folder, the same on every machine.
        pool: The pool, or a copy of it on each machine, which is only read; None for the base
            alone.
        name: Name of the base; that of the folder if it is None.
        num_replicas: Servers.
        threads: Threads of a server, and CPUs that Ray keeps for it.
        rows: Texts that a server writes side by side.
        queue: Texts that wait in a server; others wait in Ray until one of the servers has room.
        context: Tokens of prompt and text together.
        chunk: Tokens of a prompt that are read between two tokens of the other texts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    pool: str | None = None
    name: str | None = None
    num_replicas: PositiveInt = 1
    threads: PositiveInt = 1
    rows: PositiveInt = 8
    queue: PositiveInt = 8
    context: PositiveInt = 4096
    chunk: PositiveInt = 64


def application(settings: Mapping[str, Any]) -> Application:
    """Returns an application of Ray Serve, for ``serve run``, a config file or ``serve.run``.

    Clients need a key where ``KRONQ_API_KEY`` is set in the environment of this function.

    Args:
        settings: Those of ``ReplicaSettings``; numbers may be texts.

    Raises:
        ArgumentError: One of them is wrong.
        MissingDependencyError: Ray is not installed.

    Example:
        >>> from ray import serve
        >>> serve.run(application({"path": "app", "pool": "pool", "num_replicas": 2}))
    """
    require("ray", "Ray Serve")
    from ray import serve

    try:
        found = ReplicaSettings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ArgumentError(f"{name}: {first['msg']}", found=repr(first["input"])) from None
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="kronq",
        num_replicas=found.num_replicas,
        max_ongoing_requests=found.rows + found.queue,
        ray_actor_options={"num_cpus": found.threads},
    )
    return deployment.bind(found.model_dump(), os.environ.get(KEY))


class Replica:
    """One server; Ray makes it in a process of its own.

    Args:
        settings: Fields of ``ReplicaSettings``.
        key: Key that clients need; None for none.
    """

    def __init__(self, settings: Mapping[str, Any], key: str | None) -> None:
        from kronq.serve.service import ServerOptions, open_service
        from kronq.serve.stepping import keep_steps_even

        given = ReplicaSettings.model_validate(settings)
        self._service = open_service(
            given.path,
            ServerOptions(
                name=given.name or Path(given.path).resolve().name,
                queue=given.queue,
                api_keys=[key] if key else [],
            ),
            pool=given.pool,
            rows=given.rows,
            context=given.context,
            chunk=given.chunk,
            threads=given.threads,
        )
        keep_steps_even()

    def __serve_build_asgi_app__(self) -> Starlette:
        from kronq.serve.app import make_app

        return make_app(self._service)

    def check_health(self) -> None:
        """Tells Ray, which asks, whether this server is to be replaced.

        Raises:
            RuntimeError: Its engine has failed.
        """
        if self._service.stepping.failed:
            raise RuntimeError("the engine has failed")
