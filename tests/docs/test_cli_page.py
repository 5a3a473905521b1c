"""docs/reference/cli.md repeats --help; KRONQ_REGENERATE=1 writes it anew."""

from __future__ import annotations

import os
import subprocess
import sys

import click
from click.testing import CliRunner

from kronq.cli import VERBS, cli
from kronq.cli.verbs import Verbs
from tests.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "cli.md"

HEAD = """\
# Command line

Results go to stdout, everything else to stderr; `--json` puts JSON alone on stdout. Exit codes:
0 done, 1 a limit that you set was missed, 2 something to mend (one line on stderr says what). An
output that exists is refused without `--force`, and nothing is ever half-written, also after Ctrl-C
or `kill`. A folder is only replaced if it is empty, or if kronq wrote it (it then has a `.kronq`).
"""


def page() -> str:
    parts = [HEAD]
    for words in ([], *(words for verb in VERBS for words in _words(verb))):
        result = CliRunner().invoke(
            cli,
            [*words, "--help-all" if words else "--help"],
            prog_name="kronq",
            terminal_width=100,
        )
        assert result.exit_code == 0
        parts.append(f"## {' '.join(['kronq', *words])}\n\n```\n{result.output.strip()}\n```\n")
    return "\n".join(parts)


def _words(verb: str) -> list[list[str]]:
    """A verb, and those below it."""
    command = cli.get_command(click.Context(cli), verb)
    below = command.verbs if isinstance(command, Verbs) else ()
    return [[verb], *([verb, each] for each in below)]


def page_of_its_own() -> str:
    """A process that has run no verb yet: click keeps the help option of whoever asked first."""
    command = [sys.executable, "-m", "tests.docs.test_cli_page"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode()


def test_the_page_says_what_help_says() -> None:
    if os.environ.get("KRONQ_REGENERATE"):
        PAGE.write_text(page_of_its_own(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page_of_its_own()


if __name__ == "__main__":
    sys.stdout.buffer.write(page().encode())
