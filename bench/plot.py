"""Plots as SVG, without a library: lines over a logarithmic axis, one for each figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 190, 34, 40
COLOURS = ("#0b6e99", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#be185d")


def svg(
    title: str, unit: str, sizes: Sequence[int], lines: Mapping[str, Sequence[float]], bar: float | None = None
) -> str:
    """``lines`` over ``sizes``; ``unit`` is that of the figures, ``bar`` a value that is drawn across."""
    most = max([*(value for values in lines.values() for value in values), bar or 0]) * 1.1
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])

    def x(size: int) -> float:
        return LEFT + (math.log10(size) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / most * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    for step in range(5):
        value = most * step / 4
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{TOP - 4}" text-anchor="end" fill="#666">{escape(unit)}</text>')
    for size in sizes:
        parts.append(f'<path d="M{x(size):.1f} {HEIGHT - BOTTOM}v4" stroke="#666"/>')
        parts.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{size:,}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}" fill="#666">identities</text>')
    if bar is not None:
        parts.append(f'<path d="M{LEFT} {y(bar):.1f}H{WIDTH - RIGHT}" stroke="#666" stroke-dasharray="4 3"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 6}" y="{y(bar) + 4:.1f}" fill="#666">asked: at most {bar:g}</text>')
    for number, (name, values) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in zip(sizes, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        row = TOP + 14 + 18 * number
        parts.append(f'<path d="M{WIDTH - RIGHT + 8} {row - 4}h14" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 26}" y="{row}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
