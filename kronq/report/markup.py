"""HTML and SVG elements as values; text is escaped, so no layer name can become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from kronq.errors import printable


class Markup(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


Child = str | Markup | None | Iterable["Child"]

_VOID = {"meta", "br", "hr", "line", "rect", "circle", "path", "polyline", "polygon", "col"}


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """Returns an element.

    Args:
        name: Name of the element.
        *children: Markup, or text to be escaped.
        **attributes: ``class_`` is class, ``aria_label`` aria-label; None leaves one out.
    """
    attribute_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_attribute_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{attribute_text}/>")
    return Markup(f"<{name}{attribute_text}>{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Returns the concatenated children, with plain text escaped."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(html.escape(printable(children), quote=False))
    return Markup("".join(join(child) for child in children))


def _attribute_value(value: object) -> str:
    """Formats a value, coordinates with a tenth of a pixel."""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return printable(str(value))


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1
) -> Markup:
    """Returns a table whose first ``words`` columns are words and whose others are numbers."""
    kinds = [None if i < words else "figure" for i in range(len(head))]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag(
                "thead",
                tag("tr", [tag("th", c, scope="col", class_=k) for c, k in _zip(head, kinds)]),
            ),
            tag("tbody", [tag("tr", _cells(row, kinds)) for row in rows]),
        ),
        class_="wide",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _cells(row: Sequence[str], kinds: Sequence[str | None]) -> list[Markup]:
    first, *others = _zip(row, kinds)
    return [
        tag("th", first[0], scope="row", class_=first[1]),
        *(tag("td", cell, class_=kind) for cell, kind in others),
    ]


def _zip(cells: Sequence[str], kinds: Sequence[str | None]) -> list[tuple[str, str | None]]:
    return list(zip(cells, kinds, strict=True))
