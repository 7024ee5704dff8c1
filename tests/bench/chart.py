"""Bar charts as SVG, without a library."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, ROW, LEFT, TOP = 720, 52, 210, 48


class Chart(NamedTuple):
    """A bar for each name: its length, and the ends of its range as a whisker."""

    title: str
    bars: Mapping[str, tuple[float, float, float]]
    label: str = "{:.2f}x"
    """How a length is written."""


def draw(charts: Sequence[Chart]) -> str:
    """Draw charts one below the other; Annex' bars stand out."""
    height = sum(TOP + ROW * len(c.bars) for c in charts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="14">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    top = 0
    for chart in charts:
        parts += draw_one(chart, top)
        top += TOP + ROW * len(chart.bars)
    return "\n".join([*parts, "</svg>", ""])


def draw_one(chart: Chart, top: int) -> list[str]:
    """Draw one chart below `top`."""
    scale = (WIDTH - LEFT - 90) / max(high for _, _, high in chart.bars.values())
    parts = [f'<text x="16" y="{top + 28}" font-weight="bold">{escape(chart.title)}</text>']
    for n, (name, (length, low, high)) in enumerate(chart.bars.items()):
        y = top + TOP + n * ROW
        middle = y + 18
        parts += [
            f'<text x="{LEFT - 12}" y="{middle + 5}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{length * scale:.1f}" height="36" rx="3" '
            f'fill="{"#2f855a" if name.startswith("Annex") else "#94a3b8"}"/>',
            f'<path d="M{LEFT + low * scale:.1f} {middle}H{LEFT + high * scale:.1f}" '
            'stroke="#111" stroke-width="2"/>',
            f'<text x="{LEFT + high * scale + 10:.1f}" y="{middle + 5}">'
            f"{escape(chart.label.format(length))}</text>",
        ]
    return parts
