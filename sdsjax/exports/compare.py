"""Several runs on one offline page, compare.html: turntables in step, a table.

    python -m sdsjax.compare runs/a runs/b --out=compare.html

Each run is a directory with metrics.json; what a run lacks is left out. The best value
of a score (higher or lower, as the report says) is bold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from sdsjax.diagnostics.plots import number
from sdsjax.evaluation.records import Figure, finite, read_figures
from sdsjax.exports.report import (
    figure,
    is_marked,
    page,
    section,
    table,
)
from sdsjax.exports.scores.columns import ROWS
from sdsjax.files.atomic import write_bytes

# The turntables follow the first one: same frame, same pause.
_TOGETHER = """
(() => {
  const [lead, ...rest] = document.querySelectorAll("video");
  if (!lead) return;
  const follow = () => rest.forEach((video) => {
    if (Math.abs(video.currentTime - lead.currentTime) > 0.04)
      video.currentTime = lead.currentTime % (video.duration || Infinity);
    if (video.paused !== lead.paused) lead.paused ? video.pause() : video.play();
  });
  rest.forEach((video) => { video.onclick = () => lead.click(); });
  setInterval(follow, 250);
})();
"""


MARK = '<div class="stack compared"'  # what tells such a page from another file


class CompareError(ValueError):
    """A directory that holds no readable run; one line."""


def is_compare_page(path: Path) -> bool:
    """Tells whether a file is such a page, or nothing at all: it may be replaced."""
    return is_marked(path, MARK)


class Entry(NamedTuple):
    """One run of a comparison: folder's name, metrics.json, turntable or picture.

    numbers: those of scores.json.
    """

    name: str
    metrics: Mapping[str, Any]
    picture: Path | None
    numbers: Mapping[str, Figure] = {}


def read_run(folder: Path) -> Entry:
    """Reads what a run directory exported. Raises CompareError without metrics.json."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CompareError(f"{folder}: no readable metrics.json ({error})") from None
    if not isinstance(metrics, dict):
        raise CompareError(f"{folder}: metrics.json holds no JSON object")
    names = ("turntable.mp4", "turntable.webp", "image.png")
    found = [folder / name for name in names if (folder / name).is_file()]
    picture = found[0] if found else None
    return Entry(folder.name, metrics, picture, read_figures(folder))


def _figure_of(entry: Entry, key: str) -> float | None:
    """A score or a top-level figure, None unless it is a finite number."""
    if key in entry.numbers:
        return entry.numbers[key].value
    truth = entry.metrics.get("truth")
    value = truth.get(key) if isinstance(truth, dict) and key in truth else None
    if value is None:
        value = entry.metrics.get(key)
    return finite(value)


def scores_table(entries: Sequence[Entry]) -> str:
    """A row a figure, a column a run; empty rows are left out."""
    rows = []
    extra = (("steps", "Steps", "", ""), ("seconds", "Time", "s", "lower"))
    for key, label, unit, better in (*ROWS, *extra):
        values = [_figure_of(entry, key) for entry in entries]
        known = [value for value in values if value is not None]
        if not known:
            continue
        if len({e.numbers[key].by for e in entries if key in e.numbers}) > 1:
            label, better = f"{label} (measured differently)", ""
        best = {"higher": max(known), "lower": min(known)}.get(better)
        cells = []
        for value in values:
            text = "-" if value is None else f"{number(value)} {unit}".strip()
            cells.append(f"<strong>{text}</strong>" if value == best else text)
        hint = f" <small>({better} is better)</small>" if better else ""
        rows.append([f"{label}{hint}", *cells, *([""] if len(entries) == 1 else [])])
    return table(rows, ("Figure", *(escape(entry.name) for entry in entries)))


def compare_html(entries: Sequence[Entry]) -> str:
    """The page. Pure but for reading the pictures it embeds."""
    cards = []
    for entry in entries:
        prompt = str(entry.metrics.get("prompt", ""))
        card = figure(entry.picture, f"{entry.name}: {prompt}")
        cards.append(card or f"<p>{escape(entry.name)}: nothing to show</p>")
    body = section("Side by side", f"{MARK}>{''.join(cards)}</div>")
    body += section("Figures", scores_table(entries))
    return page(f"{len(entries)} runs", body + f"<script>{_TOGETHER}</script>")


def write_compare(path: str | os.PathLike, folders: Sequence[str | Path]) -> Path:
    """Writes the page for run directories. Raises CompareError, in one line."""
    if not folders:
        raise CompareError("name at least one run directory")
    entries = [read_run(Path(folder)) for folder in folders]
    return write_bytes(path, compare_html(entries).encode("utf-8"))
