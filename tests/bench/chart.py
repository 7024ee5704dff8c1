"""A bar chart as SVG, without a library."""

from collections.abc import Mapping
from html import escape

WIDTH, ROW, LEFT, TOP = 720, 52, 210, 48


def draw(bars: Mapping[str, tuple[float, float, float]]) -> str:
    """Draw a bar for each name: its length, and the ends of its range as a whisker."""
    scale = (WIDTH - LEFT - 90) / max(high for _, _, high in bars.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + ROW * len(bars)}" '
        'font-family="system-ui, sans-serif" font-size="14">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<text x="16" y="28" font-weight="bold">GET …/events?limit=20: requests a second, '
        "as a multiple; whiskers: range over rounds</text>",
    ]
    for n, (name, (length, low, high)) in enumerate(bars.items()):
        y = TOP + n * ROW
        middle = y + 18
        parts += [
            f'<text x="{LEFT - 12}" y="{middle + 5}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{length * scale:.1f}" height="36" rx="3" '
            f'fill="{"#94a3b8" if n == len(bars) - 1 else "#2f855a"}"/>',
            f'<path d="M{LEFT + low * scale:.1f} {middle}H{LEFT + high * scale:.1f}" '
            'stroke="#111" stroke-width="2"/>',
            f'<text x="{LEFT + high * scale + 10:.1f}" y="{middle + 5}">{length:.2f}x</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
