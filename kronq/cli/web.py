"""``kronq web``: makes and serves a web page in which adapters swap on one model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kronq.cli import shared
from kronq.cli.command import Command, verbosity
from kronq.errors import ArgumentError
from kronq.io.unfinished import scratch_folder

if TYPE_CHECKING:
    from kronq.web.site import Site

EXAMPLES = """\b
Examples:
  kronq web app/ --adapter small.safetensors --adapter tiny.safetensors \\
      --install
  kronq web app/ --adapter small.safetensors -o site
  kronq web site/
"""


@click.command(
    "web", cls=Command, short_help="Serve a model and its adapters to a browser.", epilog=EXAMPLES
)
@click.argument("path")
@shared.adapter_option
@click.option("-o", "--output", metavar="SITE", help="Write the folder, and serve nothing.")
@click.option("--question", default="", metavar="TEXT", help="The question that is shown first.")
@click.option(
    "--prompt", default="{}", metavar="TEXT", help="The prompt; {} stands for the question."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, metavar="N")
@click.option(
    "--install", is_flag=True, help="Let npm fetch onnxruntime-web once, where it is not cached."
)
@shared.other_base_option
@shared.force_option
def command(
    path: str,
    adapters: tuple[str, ...],
    output: str | None,
    question: str,
    prompt: str,
    port: int,
    install: bool,
    force: bool,
    other_base: bool,
) -> None:
    """Serve PATH to a browser of this machine: a model with slots, or a folder written by -o.

    The page asks every adapter the same question, in WebAssembly; nothing is sent anywhere.
    Adapters are packed files of any method, or .onnx_adapter files. Weights of 4 and 8 bits become
    float32 when the page loads, which makes a token several times as fast.
    """
    shared.check_inputs(path)
    from kronq.web.packages import find_packages
    from kronq.web.site import INDEX, write_site

    if Path(path, INDEX).is_file():
        if adapters or output:
            raise ArgumentError(
                "a folder that is served as it is", path=path, hint="give the model"
            )
        _serve(Path(path), port)
        return
    named = shared.named_adapters(adapters)
    shared.check_inputs(*named.values())
    packages = find_packages(install=install)
    write = partial(
        write_site,
        path,
        named,
        packages=packages,
        question=question,
        prompt=prompt,
        other_base=other_base,
    )
    if output is not None:
        site = write(output, force=force)
        shared.show(*_describe(site), f"wrote {output}; 'kronq web {output}' serves it")
        return
    with scratch_folder("kronq-web") as scratch:
        site = write(scratch / "site")
        shared.show(*_describe(site))
        _serve(site.folder, port)


def _describe(site: Site) -> list[str]:
    lines = [f"model: {site.model_bytes:,} bytes, loaded once"]
    lines += [f"{name}: {size:,} bytes" for name, size in site.adapter_bytes.items()]
    if site.expanded:
        lines.append(f"{site.expanded} weights of few bits become float32 when the page loads")
    if site.kept:
        lines.append(f"{site.kept} weights stay at few bits: slow in a browser")
    return lines


def _serve(folder: Path, port: int) -> None:
    from kronq.web.serve import ADDRESS, serve_folder

    with serve_folder(folder, port) as server:
        if verbosity.get() >= 0:
            click.echo(f"http://{ADDRESS}:{server.server_port}/   (Ctrl-C ends it)")
        server.serve_forever()
