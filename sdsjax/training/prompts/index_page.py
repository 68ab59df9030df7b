"""Many assets on one page, index.html: thumbnails, scores, links to their reports.

The page stands beside the run directories and holds relative links only, so that all
of it can be moved or served together; what was typed by a person is escaped. It is made
of what the directories hold, anew each time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from sdsjax.diagnostics.plots import number
from sdsjax.evaluation.records import Figure, all_figures
from sdsjax.exports.report import is_marked, page, section, table
from sdsjax.exports.scores.columns import PICTURES, ROWS
from sdsjax.files.atomic import read_object, write_bytes

MARK = '<div class="assets"'  # what tells a page of ours from somebody else's
LINKS = {
    "report.html": "report",
    "turntable.mp4": "turntable",
    "turntable.webp": "turntable",
    "mesh.glb": "mesh",
    "splats.ply": "splats",
    "metrics.json": "metrics",
}
# of the scores, under a thumbnail
SHOWN = ("iou", "psnr", "janus_rate", "clip_similarity", "clip_r_precision")


class Entry(NamedTuple):
    """One asset of the page.

    prompt; folder: its run directory, beside the page; status: a word ("finished",
    "waiting", "diverged", ...); note: a line about it, or "".
    """

    prompt: str
    folder: Path
    status: str
    note: str = ""


def is_index(path: Path) -> bool:
    """Tells whether a file is such a page, or nothing at all: it may be replaced."""
    return is_marked(path, MARK)


def _picture(folder: Path) -> Path | None:
    # the views of the finished asset, else the newest preview
    previews = sorted((folder / "previews").glob("*.png"), key=_last_number)
    found = [folder / name for name in PICTURES]
    return next((p for p in (*found, *previews[::-1]) if p.is_file()), None)


def _last_number(path: Path) -> int:
    return int((re.findall(r"\d+", path.stem) or ["0"])[-1])


def _link(path: Path, beside: Path, text: str) -> str:
    where = quote(path.relative_to(beside).as_posix())
    return f'<a href="{escape(where, quote=True)}">{text}</a>'


def _card(entry: Entry, beside: Path, metrics: Mapping[str, Any]) -> str:
    picture, folder = _picture(entry.folder), entry.folder
    links = [
        _link(folder / name, beside, text)
        for name, text in LINKS.items()
        if (folder / name).is_file()
    ]
    media = '<div class="blank"></div>'
    if picture is not None:
        source = escape(quote(picture.relative_to(beside).as_posix()), quote=True)
        alt = escape(entry.prompt, quote=True)
        media = f'<img src="{source}" alt="{alt}" loading="lazy">'
        if (folder / "report.html").is_file():
            media = _link(folder / "report.html", beside, media)
    badge = "badge" if entry.status in ("finished", "waiting") else "badge aborted"
    scores = all_figures(entry.folder, metrics)
    labels = {key: label for key, label, *_ in ROWS}
    said = [
        f"{labels[key]} {number(scores[key].value)}" for key in SHOWN if key in scores
    ]
    lines = [
        f'<span class="{badge}">{escape(entry.status)}</span>'
        f"<strong>{escape(entry.prompt)}</strong>",
        escape(", ".join(said)),
        escape(entry.note),
        " ".join(links),
    ]
    body = "".join(f"<div>{line}</div>" for line in lines if line)
    return f"<figure>{media}<figcaption>{body}</figcaption></figure>"


def _mean_scores(rows: Sequence[Mapping[str, Figure]]) -> str:
    lines = []
    for key, label, unit, better in ROWS:
        values = [row[key].value for row in rows if key in row]
        # a mean over numbers of several networks or lists would say nothing
        if values and len({row[key].by for row in rows if key in row}) == 1:
            mean = f"{number(sum(values) / len(values))} {unit}".strip()
            name = f"{label} <small>({better} is better)</small>"
            lines.append([name, mean, str(len(values))])
    return table(lines, ("Score", "Mean", "Assets"))


def index_html(title: str, entries: Sequence[Entry], beside: Path) -> str:
    """Makes the page that is to stand in `beside`.

    Pure but for reading metrics.json and looking which files are there.
    """
    metrics = [read_object(entry.folder / "metrics.json") for entry in entries]
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.status] = counts.get(entry.status, 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    cards = "".join(_card(e, beside, m) for e, m in zip(entries, metrics))
    scored = [
        all_figures(e.folder, m)
        for e, m in zip(entries, metrics)
        if e.status == "finished" and m
    ]
    body = f'<p class="lede">{escape(said)}</p>{MARK}>{cards}</div>'
    return page(title, body + section("Means", _mean_scores(scored)))


def write_index(path: Path, title: str, entries: Sequence[Entry]) -> Path:
    """Writes the page, whole or not at all. Raises OSError."""
    return write_bytes(path, index_html(title, entries, path.parent).encode("utf-8"))
