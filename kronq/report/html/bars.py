"""Bar chart of a histogram of codes, as SVG."""

from __future__ import annotations

from collections.abc import Mapping

from kronq.report.html.chart import PHONE, WIDTH, format_percent
from kronq.report.markup import Markup, tag
from kronq.report.models import CodeHistogram

_HEIGHT, _BOTTOM, _TOP, _SIDE = 170, 22, 16, 14
"""Pixels: of the picture, below, above and beside the bars."""
_PHONE = PHONE - 2.0 * _SIDE
"""Pixels of the bars on a phone."""
_TAIL = 0.002
"""Share of levels that the outermost bars may count together."""


def histogram(counts: CodeHistogram) -> Markup:
    """Draws a bar for each code of the width, also for codes that do not occur."""
    bars = _bar_counts(counts)
    total = sum(bars.values())
    width = max(300.0, min(WIDTH - 2.0 * _SIDE, 22.0 * len(bars)))
    zeros = format_percent(bars.get(0, 0) / total)
    title = f"{counts.kind}: {total:,} codes, {zeros} of them zero"
    return tag(
        "figure",
        tag("figcaption", title),
        [_draw(bars, width, title, None if width <= _PHONE else "for-desk"),
         _draw(bars, _PHONE, title, "for-phone") if width > _PHONE else None],
        style=f"max-width: {width + 2 * _SIDE:.0f}px",
        class_="slim",
    )  # fmt: skip


def _draw(bars: Mapping[int, int], width: float, title: str, screen: str | None) -> Markup:
    """Draws the bars for one kind of screen, or for all."""
    whole = width + 2 * _SIDE
    y = _HEIGHT - _BOTTOM
    return tag(
        "svg",
        tag("title", title),
        tag("line", x1=0, x2=whole, y1=y, y2=y, class_="axis"),
        _draw_bars(bars, width / len(bars)),
        _draw_ticks(bars, width / len(bars)),
        viewBox=f"0 0 {whole:.0f} {_HEIGHT}",
        role="img",
        aria_label=title,
        class_=f"bars {screen}" if screen else "bars",
    )


def _bar_counts(counts: CodeHistogram) -> dict[int, int]:
    """Returns code → count for every bar from left to right; the outermost count the tails."""
    low, high = _outermost_codes(counts)
    bars = dict.fromkeys(range(low, high + 1), 0)
    for code, count in zip(counts.codes, counts.counts, strict=True):
        bars[min(max(code, low), high)] += count
    return bars


def _outermost_codes(counts: CodeHistogram) -> tuple[int, int]:
    """Returns the ends of a width's range; of levels, those beyond which only the tail lies."""
    bits = counts.kind.removeprefix("int")
    if bits.isdigit():
        return -(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1
    counted = list(zip(counts.codes, counts.counts, strict=True))
    total = sum(counts.counts)
    far = 1
    while sum(n for code, n in counted if abs(code) > far) > _TAIL * total:
        far += 1
    return -far - 1, far + 1


def _draw_bars(bars: Mapping[int, int], width: float) -> list[Markup]:
    total = sum(bars.values())
    largest = max(bars.values()) / total
    elements = []
    for i, (code, count) in enumerate(bars.items()):
        share = count / total
        height = (_HEIGHT - _BOTTOM - _TOP) * share / largest
        bar = tag(
            "rect",
            tag("title", f"{code}: {count:,}, {format_percent(share)}"),
            x=_SIDE + i * width + min(1.0, width / 8),
            y=_HEIGHT - _BOTTOM - height,
            width=max(width - min(2.0, width / 4), 0.4),
            height=height,
            class_="zero" if code == 0 else "bar",
        )
        elements.append(bar)
    return elements


def _draw_ticks(bars: Mapping[int, int], width: float) -> list[Markup]:
    longest = max(len(_format_code(code)) for code in bars)
    room = 8.0 * longest + 6
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n * width >= room)
    return [
        tag(
            "text", _format_code(code), x=_SIDE + (i + 0.5) * width, y=_HEIGHT - 6.0, class_="tick",
            text_anchor="middle",
        )
        for i, code in enumerate(bars)
        if code % every == 0
    ]  # fmt: skip


def _format_code(code: int) -> str:
    return str(code).replace("-", "−")
