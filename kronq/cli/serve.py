"""``kronq serve``: a server of a base and its adapters, which speaks OpenAI's protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.command import Command, option
from kronq.errors import ArgumentError
from kronq.io.extras import require
from kronq.serve import KEY

if TYPE_CHECKING:
    from kronq.serve.service import Service

ADAPTERS = "Adapters"
BATCH = "Batch"
ACCESS = "Access"

EXAMPLES = """\b
Examples:
  kronq serve base/
  kronq serve app/ --pool pool/ --rows 16 --threads 8
  kronq serve app/ --pool pool/ --adapters runs/ --port 8080
  KRONQ_API_KEY=secret kronq serve app/ --host 0.0.0.0
  curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
      -d '{"model": "base", "prompt": "Bees make", "max_tokens": 8}'
"""


@click.command(
    "serve", cls=Command, short_help="Serve a model by OpenAI's protocol.", epilog=EXAMPLES
)
@click.argument("path")
@option(
    "--pool",
    group=ADAPTERS,
    metavar="POOL",
    help="Adapters of 'kronq pool', each by its name; PATH is then of the form pool or slots.",
)
@option(
    *("--adapters", "folder"),
    group=ADAPTERS,
    metavar="DIR",
    help="Adapters that are added to POOL when they are first asked for, by the names of their "
    "files or folders.",
)
@option(
    "--allow-loading",
    is_flag=True,
    group=ADAPTERS,
    help="Let requests add adapters of this machine's files and remove them.",
)
@shared.other_base_option
@click.option("--name", metavar="NAME", help="Name of the base; that of PATH's folder by default.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, metavar="N")
@option(
    *("--rows", "rows"),
    group=BATCH,
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Texts that are written side by side.",
)
@option(
    "--context",
    group=BATCH,
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    metavar="N",
    help="Tokens of prompt and text together; never more than the model's own.",
)
@option(
    "--chunk",
    group=BATCH,
    rare=True,
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="N",
    help="Tokens of a prompt that are read between two tokens of the other texts.",
)
@option(
    "--queue",
    group=BATCH,
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    metavar="N",
    help="Texts that wait for a row; more are refused (429).",
)
@option(
    "--threads",
    group=BATCH,
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads; one a core if not given.",
)
@option(
    "--drain",
    group=BATCH,
    rare=True,
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="S",
    help="Seconds that texts have to end after SIGTERM.",
)
@option(
    "--host",
    group=ACCESS,
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen at; the default is this machine alone.",
)
@option(
    "--api-key",
    "api_keys",
    group=ACCESS,
    multiple=True,
    metavar="KEY",
    help=f"Key that requests must have; may be given again, or be in {KEY}.",
)
def command(
    path: str,
    pool: str | None,
    folder: str | None,
    name: str | None,
    api_keys: tuple[str, ...],
    **others: Any,
) -> None:
    """Serve the model in PATH by OpenAI's protocol, many texts side by side.

    Paths: /v1/completions, /v1/chat/completions, /v1/models, /health, /ready, /metrics.
    SIGTERM and Ctrl-C end it when the texts that have begun are written.
    """
    shared.check_inputs(path, folder)
    host, port, drain = (others.pop(option) for option in ("host", "port", "drain"))
    loading, queue = others.pop("allow_loading"), others.pop("queue")
    if pool is None and (folder or loading):
        raise ArgumentError("adapters are added to a pool", hint="--pool POOL, a new folder or one")
    require("serve", "a server")
    require("genai", "text")
    from kronq.serve.run import LOOPBACK, run_server
    from kronq.serve.service import ServerOptions, open_service

    keys = (*api_keys, *filter(None, [os.environ.get(KEY)]))
    local = host in LOOPBACK
    options = ServerOptions(
        name=name or Path(path).resolve().name,
        queue=queue,
        api_keys=keys,
        runtime_loading=loading,
        hosts=(*LOOPBACK, "[::1]") if local and not keys else ("*",),
    )
    service = open_service(path, options, pool=pool, folder=folder, **others)
    _tell(service, public=not (local or keys))
    run_server(
        service, host, port, drain, lambda url: shared.inform(f"{url}/v1   (Ctrl-C ends it)")
    )


def _tell(service: Service, *, public: bool) -> None:
    """Says what is served, and whether to everyone."""
    engine = service.engine
    rows = f"{engine.rows} rows of up to {engine.context:,} tokens"
    shared.inform(f"{service.options.name}: {rows}, {len(service.catalog):,} adapters")
    if public:
        shared.note(
            "kronq: note: whoever reaches this address may use it; --api-key asks for a key"
        )
