"""HTML and SVG as values: whatever is text is escaped, so no layer's name can become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from kronq.errors import printable


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | Markup | None | Iterable["Child"]

_VOID = {"meta", "br", "hr", "line", "rect", "circle", "path", "polyline", "polygon", "col"}


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element; ``class_`` is the class, ``aria_label`` is aria-label, None leaves one out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{told}/>")
    return Markup(f"<{name}{told}>{joined(children)}</{name}>")


def joined(children: Child) -> Markup:
    """Children one behind the other, escaped where they are plain text."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(html.escape(printable(children), quote=False))
    return Markup("".join(joined(child) for child in children))


def _text(value: object) -> str:
    """Coordinates with a tenth of a pixel, which is all one sees."""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return printable(str(value))


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1
) -> Markup:
    """A table whose first ``words`` columns are words and whose others are figures."""
    kinds = [None if i < words else "figure" for i in range(len(head))]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag(
                "thead",
                tag("tr", [tag("th", c, scope="col", class_=k) for c, k in _both(head, kinds)]),
            ),
            tag("tbody", [tag("tr", _cells(row, kinds)) for row in rows]),
        ),
        class_="wide",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _cells(row: Sequence[str], kinds: Sequence[str | None]) -> list[Markup]:
    first, *others = _both(row, kinds)
    return [
        tag("th", first[0], scope="row", class_=first[1]),
        *(tag("td", cell, class_=kind) for cell, kind in others),
    ]


def _both(cells: Sequence[str], kinds: Sequence[str | None]) -> list[tuple[str, str | None]]:
    return list(zip(cells, kinds, strict=True))
