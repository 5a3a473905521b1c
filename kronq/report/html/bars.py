"""The histogram of codes."""

from __future__ import annotations

from kronq.report.html.chart import percent
from kronq.report.html.markup import Markup, tag
from kronq.report.models import CodeCounts

_HEIGHT, _BOTTOM, _TOP = 170, 22, 16
_FEW = 0.002
"""The share of levels that the outermost bars may stand for together."""


def histogram(counts: CodeCounts) -> Markup:
    """How often each code occurs, with every code of the width, also those that never do."""
    total = sum(counts.counts)
    low, high = _ends(counts, total)
    found: dict[int, int] = {}
    for code, count in zip(counts.codes, counts.counts, strict=True):
        at = min(max(code, low), high)
        found[at] = found.get(at, 0) + count
    most = max(found.values()) / total
    width = max(320.0, min(1040.0, 22.0 * (high - low + 1)))
    each = width / (high - low + 1)
    zero = found.get(0, 0) / total
    parts = []
    for code in range(low, high + 1):
        share = found.get(code, 0) / total
        tall = (_HEIGHT - _BOTTOM - _TOP) * share / most
        x = (code - low) * each
        parts.append(
            tag(
                "rect",
                tag("title", f"{code}: {found.get(code, 0):,}, {percent(share)}"),
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
    title = f"{counts.kind}: {total:,} codes, {percent(zero)} of them zero"
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


def _ends(counts: CodeCounts, total: int) -> tuple[int, int]:
    """All codes of a native width; of levels those that nearly all are, the others counted last."""
    bits = counts.kind.removeprefix("int")
    if bits.isdigit():
        return -(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1
    pairs = list(zip(counts.codes, counts.counts, strict=True))
    far = 1
    while sum(n for code, n in pairs if abs(code) > far) > _FEW * total:
        far += 1
    return -far - 1, far + 1
