"""Line plots as inline SVG: they follow the page's colours and need no library.

A history is a list of dicts: `step` and any scalars. One small plot a scalar: the raw
line faint, an exponential moving average over it; a log axis where values are positive
and span more than two decades.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 300, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 26, 22
_FIRST = ("loss", "grad", "variance", "time", "second", "opacity", "alive")


def scalar_series(
    history: Sequence[Mapping],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Collects the scalars of a history by name, as arrays (steps, values).

    Finite values alone, of names with at least two; telling names come first.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for index, row in enumerate(history):
        step = float(row.get("step", index))
        for name, value in row.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if name != "step" and math.isfinite(number):
                found.setdefault(name, []).append((step, number))

    def rank(name: str) -> tuple[bool, int, str]:
        # "group/detail" after the figures that stand by themselves
        hits = [i for i, word in enumerate(_FIRST) if word in name.lower()]
        return ("/" in name, min(hits, default=len(_FIRST)), name)

    series = {}
    for name in sorted(found, key=rank):
        if len(found[name]) > 1:
            steps, values = zip(*found[name])
            series[name] = (np.array(steps), np.array(values))
    return series


def number(value: float) -> str:
    """A figure as a person wants to read it: three or four significant digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e+")
    return f"{value:.4g}"


def _smooth(values: np.ndarray) -> np.ndarray:
    """The exponential moving average of a line, over about a twentieth of it.

    Run both ways and averaged, so that it does not lag.
    """
    rate = min(1.0, 20.0 / len(values))

    def run(line: np.ndarray) -> np.ndarray:
        out, mean = np.empty_like(line), line[0]
        for i, value in enumerate(line):
            mean += rate * (value - mean)
            out[i] = mean
        return out

    return 0.5 * (run(values) + run(values[::-1])[::-1])


def _path(x: np.ndarray, y: np.ndarray, kind: str) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))
    return f'<polyline class="{kind}" points="{points}"/>'


def line_plot(title: str, steps: np.ndarray, values: np.ndarray) -> str:
    """One `<svg>`; steps and values `[n]`, n >= 2."""
    if len(steps) > 600:
        pick = np.linspace(0, len(steps) - 1, 600).astype(int)
        steps, values = steps[pick], values[pick]
    log = values.min() > 0 and values.max() > 100 * values.min()
    scaled = np.log10(values) if log else values
    low, high = float(scaled.min()), float(scaled.max())
    if high - low < 1e-12 * max(1.0, abs(high)):
        half = 0.5 * abs(high) or 0.5
        low, high = low - half, high + half
    span = max(float(steps[-1] - steps[0]), 1e-9)
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    x = LEFT + across * (steps - steps[0]) / span

    def height(v):
        return TOP + up * (1 - (v - low) / (high - low))

    parts = [f'<text class="title" x="{LEFT}" y="15">{escape(title)}</text>']
    for level in np.linspace(low, high, 3):
        at = height(level)
        label = number(10**level if log else level)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" '
            f'y2="{at:.1f}"/><text text-anchor="end" x="{LEFT - 5}" '
            f'y="{at + 3:.1f}">{label}</text>'
        )
    for anchor, at, step in (
        ("start", LEFT, steps[0]),
        ("end", WIDTH - RIGHT, steps[-1]),
    ):
        parts.append(
            f'<text text-anchor="{anchor}" x="{at}" y="{HEIGHT - 6}">{step:g}</text>'
        )
    parts.append(_path(x, height(scaled), "raw"))
    parts.append(_path(x, height(_smooth(scaled)), "smooth"))
    label = f"{escape(title, quote=True)} by step"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    )


def plots_html(history: Sequence[Mapping], *, limit: int = 16) -> str:
    """Small multiples of the first `limit` scalars of a history; empty if none."""
    series = list(scalar_series(history).items())[:limit]
    cards = [
        f'<div class="card">{line_plot(name.replace("_", " "), *line)}</div>'
        for name, line in series
    ]
    return f'<div class="plots">{"".join(cards)}</div>' if cards else ""


SHEET_STYLE = """
text { font: 9.5px sans-serif; fill: #444 } .title { font-weight: bold; fill: #111 }
.grid { stroke: #ddd } polyline { fill: none; stroke: #2f6fb4 }
.raw { opacity: 0.3 } .smooth { stroke-width: 1.8 }
"""


def plots_svg(histories: Sequence[Mapping], *, columns: int = 3) -> str:
    """The same small multiples as one SVG document, for a file of its own."""
    cells = []
    for index, (name, line) in enumerate(scalar_series(histories).items()):
        row, column = divmod(index, columns)
        place = f'<svg x="{column * WIDTH}" y="{row * HEIGHT}" width="{WIDTH}" '
        plot = line_plot(name.replace("_", " "), *line)
        cells.append(plot.replace("<svg ", place + f'height="{HEIGHT}" ', 1))
    rows = -(-len(cells) // columns)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * WIDTH}" '
        f'height="{rows * HEIGHT}"><style>{SHEET_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(cells)}</svg>\n'
    )
