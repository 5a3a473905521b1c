"""``kronq chat``: a conversation with a model folder, adapters swapped in between."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from kronq.cli import shared
from kronq.cli.adapter_sums import adapter_sums, strength_options
from kronq.cli.command import Command
from kronq.cli.messages import as_option
from kronq.errors import KronqError
from kronq.io.extras import require

if TYPE_CHECKING:
    from kronq.genai.session import Session

EXAMPLES = """\b
Examples:
  kronq chat base/
  kronq chat slots/ --adapter arc=small.safetensors \\
      --adapter other.safetensors
  kronq chat slots/ --adapter both=a.safetensors@0.7 \\
      --adapter both=b.safetensors@0.3
  printf 'Hello!\\n/adapter none\\nHello!\\n' | kronq chat slots/ \\
      --adapter arc=small.safetensors
"""

COMMANDS = """\
/adapter NAME  answer with this adapter from now on
/adapter none  answer with the base alone
/reset         forget the conversation
/help          list the commands
/quit          leave, as the end of input does"""


class Chat:
    """Conversation so far, and the adapter that answers next.

    Args:
        session: The model and its adapters.
        system: System message of every conversation; None for none.
        adapter: The first adapter to answer; None for the base alone.
        notify: Shows a line that is no part of the conversation.
    """

    def __init__(
        self,
        session: Session,
        system: str | None,
        adapter: str | None,
        notify: Callable[[str], None],
    ) -> None:
        self.session = session
        self.adapter = adapter
        self.notify = notify
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._first)

    def command(self, line: str) -> bool:
        """Carries out a line that begins with a slash; returns False if it ends the chat."""
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return False
        if word == "/help":
            self.notify(COMMANDS)
        elif word == "/reset":
            self.messages = list(self._first)
            self.notify("the conversation starts anew")
        elif word == "/adapter":
            self.use(rest.strip())
        else:
            self.notify(f"no such command: {word}; /help lists them")
        return True

    def use(self, name: str) -> None:
        """Lets an adapter answer from now on; the conversation stays."""
        if name and name != "none" and name not in self.session.adapters:
            self.notify(f"no adapter {name}")
        elif name:
            self.adapter = None if name == "none" else name
        loaded = ", ".join(sorted([*self.session.adapters, "none"]))
        self.notify(f"adapter: {self.adapter or 'none'} (of {loaded})")

    def answer(self, text: str, show: Callable[[str], None], **settings: Any) -> None:
        """Answers a message; one that cannot be answered is not remembered."""
        asked = [*self.messages, {"role": "user", "content": text}]
        reply = self.session.generate(asked, adapter=self.adapter, stream=show, **settings).text
        self.messages = [*asked, {"role": "assistant", "content": reply}]


@click.command(
    "chat", cls=Command, epilog=EXAMPLES, short_help="Talk with a model and its adapters."
)
@click.argument("path")
@strength_options
@shared.basis_option
@shared.other_base_option
@click.option("--system", metavar="TEXT", help="System message of the conversation.")
@click.option("--max-tokens", type=int, default=256, show_default=True, metavar="N")
@click.option("--temperature", type=float, default=0.0, show_default=True, metavar="T")
@click.option("--top-p", type=float, metavar="P", help="Only the likeliest, up to this share.")
@click.option("--seed", type=int, metavar="S", help="The same seed gives the same answers.")
@shared.execution_options
def command(
    path: str,
    adapters: tuple[str, ...],
    strength: float,
    basis: str | None,
    other_base: bool,
    system: str | None,
    **options: Any,
) -> None:
    """Talk with the model in PATH; the first adapter answers first.

    A line is your message, or a command: /adapter NAME, /adapter none, /reset, /help, /quit.
    Answers go to stdout as they come, everything else to stderr.
    """
    shared.check_inputs(path, basis)
    named = adapter_sums(adapters, strength)
    require("genai", "text")
    from kronq.genai.session import Session

    session = Session(path, **shared.pop_execution(options))
    for name, total in named.items():
        session.load(name, total, basis=basis, other_base=other_base)

    def notify(line: str) -> None:
        for part in line.splitlines():
            shared.note(part)

    chat = Chat(session, system, next(iter(named), None), notify)
    if named:
        chat.use("")
    while (line := read_line()) is not None:
        if line.startswith("/"):
            if not chat.command(line):
                return
        elif line:
            try:
                chat.answer(line, shared.stream_text, **options)
                click.echo()
            except KronqError as error:
                if not sys.stdin.isatty():
                    raise
                notify(f"{error.render(as_option)}; /reset forgets the conversation")


def read_line() -> str | None:
    """Reads a line and strips it; returns None at the end of input, or on Ctrl-C."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() if line else None
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        click.echo(err=True)
        return None
