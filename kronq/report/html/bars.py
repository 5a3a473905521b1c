"""Bar chart of a histogram of codes, as SVG."""

from __future__ import annotations

from kronq.report.html.chart import format_percent
from kronq.report.markup import Markup, tag
from kronq.report.models import CodeHistogram

_HEIGHT, _BOTTOM, _TOP = 170, 22, 16
_TAIL = 0.002
"""Share of levels that the outermost bars may count together."""


def histogram(counts: CodeHistogram) -> Markup:
    """Draws a bar for each code of the width, also for codes that do not occur."""
    total = sum(counts.counts)
    low, high = _outermost_codes(counts, total)
    count_of: dict[int, int] = {}
    for code, count in zip(counts.codes, counts.counts, strict=True):
        bar = min(max(code, low), high)
        count_of[bar] = count_of.get(bar, 0) + count
    most = max(count_of.values()) / total
    width = max(320.0, min(1040.0, 22.0 * (high - low + 1)))
    each = width / (high - low + 1)
    zero = count_of.get(0, 0) / total
    parts = []
    for code in range(low, high + 1):
        share = count_of.get(code, 0) / total
        tall = (_HEIGHT - _BOTTOM - _TOP) * share / most
        x = (code - low) * each
        parts.append(
            tag(
                "rect",
                tag("title", f"{code}: {count_of.get(code, 0):,}, {format_percent(share)}"),
                x=x + min(1.0, each / 8),
                y=_HEIGHT - _BOTTOM - tall,
                width=max(each - min(2.0, each / 4), 0.4),
                height=tall,
                class_="zero" if code == 0 else "bar",
            )
        )
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n * each >= 24)
    ticks = [
        tag(
            "text", str(code), x=(code - low + 0.5) * each, y=_HEIGHT - 6.0, class_="tick",
            text_anchor="middle",
        )
        for code in range(low, high + 1)
        if code % every == 0
    ]  # fmt: skip
    title = f"{counts.kind}: {total:,} codes, {format_percent(zero)} of them zero"
    return tag(
        "figure",
        tag("figcaption", title),
        tag(
            "svg",
            tag("title", title),
            tag("line", x1=0, x2=width, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM, class_="axis"),
            parts,
            ticks,
            viewBox=f"0 0 {width:.0f} {_HEIGHT}",
            style=f"max-width: {width:.0f}px",
            role="img",
            aria_label=title,
            class_="bars",
        ),
    )


def _outermost_codes(counts: CodeHistogram, total: int) -> tuple[int, int]:
    """Returns the ends of a width's range; of levels, those beyond which only the tail lies."""
    bits = counts.kind.removeprefix("int")
    if bits.isdigit():
        return -(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1
    counted = list(zip(counts.codes, counts.counts, strict=True))
    far = 1
    while sum(n for code, n in counted if abs(code) > far) > _TAIL * total:
        far += 1
    return -far - 1, far + 1
