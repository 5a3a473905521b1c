"""A bound on the modules of a model in torch, while transformers makes it of a config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kronq import limits
from kronq.errors import StrPath


@contextmanager
def counted_modules(path: StrPath) -> Iterator[None]:
    """Refuses a model of more modules than ``limits.MODULES`` while it is made.

    Args:
        path: What it is made of, for the error.
    """
    from torch.nn.modules.module import register_module_module_registration_hook

    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        limits.MODULES.check(made, path)

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
