"""A bar plot as SVG text. It needs no plotting library, and is sharp at any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

LEVELS = range(1, 10)
"""Levels of difficulty. A plot has one group of bars for each."""

_COLOURS = ("#0072b2", "#e69f00", "#009e73")
"""Colours from Okabe and Ito's palette, which colour-blind readers can distinguish."""

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 300, 48, 64, 28


def bars(title: str, series: Mapping[str, Sequence[int]]) -> str:
    """Plot shares by difficulty level as grouped bars in SVG. The background is white, also on a dark page.

    Args:
        title: text above the plot.
        series: up to three series; for each name, a count for each of `LEVELS`. Bars show shares of a series' total.
    """
    shares = {name: [n / max(1, sum(numbers)) for n in numbers] for name, numbers in series.items()}
    largest = max((max(row) for row in shares.values()), default=0) or 1.0
    slot = (_WIDTH - _LEFT - 12) / len(LEVELS)
    bar = 0.84 * slot / max(1, len(shares))
    floor = _HEIGHT - _BOTTOM

    def height(share: float) -> float:
        return share / largest * (floor - _TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="system-ui, sans-serif" font-size="13" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-weight="600">{escape(title)}</text>',
    ]
    for share in (largest, largest / 2):
        y = floor - height(share)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 12}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    parts.append(f'<path d="M{_LEFT} {floor}H{_WIDTH - 12}" stroke="#888"/>')
    for place, level in enumerate(LEVELS):
        x = _LEFT + (place + 0.5) * slot
        parts.append(f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{level}</text>')
    legend = (_WIDTH - _LEFT - 12) / max(1, len(shares))
    for number, ((name, row), colour) in enumerate(zip(shares.items(), _COLOURS, strict=False)):
        x = _LEFT + number * legend
        parts.append(f'<rect x="{x:.1f}" y="36" width="11" height="11" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16:.1f}" y="46" font-size="12">{escape(_cut(name, legend))}</text>')
        for place, share in enumerate(row):
            x = _LEFT + place * slot + 0.08 * slot + number * bar
            parts.append(
                f'<rect x="{x:.1f}" y="{floor - height(share):.1f}" width="{bar - 1:.1f}" '
                f'height="{height(share):.1f}" fill="{colour}"/>'
            )
    return "".join([*parts, "</svg>"])


def _cut(text: str, width: float) -> str:
    """Shorten a text of the legend to a width in SVG units; a character is about 6.5 units wide."""
    characters = int((width - 24) / 6.5)
    return text if len(text) <= characters else text[: characters - 1] + "…"
