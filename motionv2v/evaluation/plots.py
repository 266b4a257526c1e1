"""Plots of the page of scores: of each metric a line for every row of the table, a dot for every video on it."""

import html
import math
from collections.abc import Mapping, Sequence

STYLE = """
svg { margin: .5em 1em .5em 0 } svg text { font: 12px system-ui, sans-serif; fill: #202124 } svg line { stroke: #ddd }
svg circle { fill: #1a73e8; fill-opacity: .35 } svg rect { fill: #202124 }
"""
WIDTH, LEFT, LINE, TOP = 440, 170, 20, 40


def strip(title: str, rows: Mapping[str, Sequence[float]], mean: Mapping[str, float]) -> str:
    """Return a plot as SVG.

    Args:
        title: above it. rows: each video's number by the row's name; NaN where there is none, which has no dot.
        mean: of each row, which has a mark; NaN where there is none.
    """
    known = [value for values in (*rows.values(), mean.values()) for value in values if math.isfinite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    place = lambda value: LEFT + 10 + (WIDTH - LEFT - 20) * ((value - low) / (high - low) if high > low else 0.5)  # noqa: E731
    height = TOP + LINE * len(rows) + 6
    parts = [
        f'<text x="4" y="14">{html.escape(title)}</text>',
        f'<text x="{LEFT + 10}" y="32">{low:.4g}</text>',
        f'<text x="{WIDTH - 10}" y="32" text-anchor="end">{high:.4g}</text>',
    ]
    for index, (name, values) in enumerate(rows.items()):
        y = TOP + LINE * index + LINE // 2
        parts.append(f'<text x="4" y="{y + 4}">{html.escape(name[:26])}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}"/>')
        parts += [f'<circle cx="{place(v):.1f}" cy="{y}" r="4"/>' for v in values if math.isfinite(v)]
        if math.isfinite(mean[name]):
            parts.append(f'<rect x="{place(mean[name]) - 1:.1f}" y="{y - 8}" width="2" height="16"/>')
    return f'<svg width="{WIDTH}" height="{height}" role="img">{"".join(parts)}</svg>'
