"""``kronq pool``: one verb, one file."""

from __future__ import annotations

import click

from kronq.cli.command import HELP_ALL
from kronq.cli.verbs import Verbs

VERBS = {
    "add": "Add adapters to a pool, which is made if there is none.",
    "ls": "List the adapters of a pool.",
    "rm": "Remove adapters from a pool.",
    "check": "Compare every record of a pool with its digest.",
    "compact": "Free the bytes of what was removed or replaced.",
}

EXAMPLES = """\b
Examples:
  kronq pool add pool/ packed/
  kronq pool add pool/ customer-7=small.safetensors my-lokr/
  kronq pool ls pool/
  kronq pool rm pool/ customer-7
  kronq pool compact pool/
"""


@click.group(
    "pool",
    cls=Verbs,
    verbs=VERBS,
    package="kronq.cli.pool",
    epilog=EXAMPLES,
    short_help="Keep thousands of adapters of one base in one file.",
    params=[HELP_ALL],
)
def command() -> None:
    """Keep thousands of adapters of one base in one file that a server maps once.

    A pool is a folder. Each row of a batch can use another adapter of it. Adding, replacing and
    removing disturb nobody who has the pool open; what was added is on the disk when the command
    ends, and a crash at any moment leaves the pool as it was before.
    """
