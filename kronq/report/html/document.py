"""HTML document around the sections of a page, which fetches nothing and runs no script."""

from __future__ import annotations

from collections.abc import Sequence

from kronq.report.html.style import style_sheet
from kronq.report.markup import Child, Markup, join, tag

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Content security policy: nothing is fetched and no script runs."""


def html_document(title: str, sections: Sequence[Child]) -> Markup:
    """Returns the whole document.

    Args:
        title: In the head.
        sections: Of the page.
    """
    document = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("style", Markup(style_sheet())),
        ),
        tag("body", tag("main", sections)),
        lang="en",
    )
    return join([Markup("<!DOCTYPE html>\n"), document])
