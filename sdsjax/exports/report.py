"""One file that shows a run, offline, whatever became of it: report.html.

Everything that was typed by a person (prompt, paths, warnings) is escaped; pictures and
videos are data URIs; style and viewer are inlined. A piece that is missing leaves its
section out: the report of an aborted run is the same page with less on it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from sdsjax.diagnostics.plots import number, plots_html
from sdsjax.exports.variance_section import split_history, variance_html
from sdsjax.exports.viewer import text_of
from sdsjax.files.atomic import sha256
from sdsjax.runs.provenance import flatten

_MIME = {
    ".mp4": "video/mp4",
    ".webp": "image/webp",
    ".png": "image/png",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
}
# Past this a file is linked, not embedded: browsers choke on larger pages.
MAX_EMBEDDED_BYTES = 24 << 20
TRUTH_ROWS = (
    ("iou", "Mask IoU", "", "higher"),
    ("psnr", "PSNR inside the masks", "dB", "higher"),
    ("psnr_full", "PSNR, whole picture", "dB", "higher"),
    ("ssim", "SSIM", "", "higher"),
    ("chamfer", "Chamfer distance", "", "lower"),
    ("depth_error", "Depth error", "", "lower"),
    ("janus_rate", "Janus rate", "", "lower"),
)
# The page of all config keys, and the sections that have a part of it for each name.
REFERENCE = "https://github.com/sdsjax/sdsjax/blob/main/docs/reference/config.md"
CHOSEN = ("estimator", "timesteps", "representation")


class Run(NamedTuple):
    """What a report shows.

    prompt, preset, status ("finished" | "aborted" | ...); config: nested; metrics: as
    in metrics.json; history: rows of scalars; warnings: lines; paths: name -> file;
    previews: (step, file) in order; commands: (reproduce, resume); viewer, numbers:
    HTML or "".
    """

    prompt: str
    preset: str
    status: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    history: Sequence[Mapping]
    warnings: Sequence[str]
    paths: Mapping[str, Path]
    previews: Sequence[tuple[int, Path]]
    commands: tuple[str, str]
    viewer: str = ""
    numbers: str = ""


def data_uri(path: Path) -> str:
    """A file as a data URI."""
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{_MIME[path.suffix]};base64,{text}"


def _shown(path: Path) -> bool:
    return (
        path.suffix in _MIME
        and path.is_file()
        and path.stat().st_size <= MAX_EMBEDDED_BYTES
    )


def figure(path: Path | None, caption: str, *, kind: str = "") -> str:
    """A picture or a video with its caption; empty when the file is not there."""
    if path is None or not _shown(path):
        return ""
    if path.suffix == ".mp4":
        # No controls: their shade would cover a strip this low. A click pauses.
        media = (
            f'<video src="{data_uri(path)}" autoplay loop muted playsinline '
            'onclick="this.paused ? this.play() : this.pause()"></video>'
        )
    else:
        media = f'<img src="{data_uri(path)}" alt="{escape(caption, quote=True)}">'
    return (
        f'<figure class="{kind}">{media}<figcaption>{escape(caption)}'
        "</figcaption></figure>"
    )


def section(title: str, body: str) -> str:
    """Makes a section of the page: a heading and what stands under it."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Cells are HTML already; a first column of headings, numbers to the right."""
    if not rows:
        return ""
    top = "".join(
        f"<th{' class=number' if i and len(head) > 2 else ''}>{cell}</th>"
        for i, cell in enumerate(head)
    )
    body = "".join(
        f"<tr><th>{row[0]}</th>"
        + "".join(
            f"<td{' class=number' if len(row) > 2 else ''}>{cell}</td>"
            for cell in row[1:]
        )
        + "</tr>"
        for row in rows
    )
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="card"><table>{top}<tbody>{body}</tbody></table></div>'


def page(title: str, body: str) -> str:
    """A whole HTML document; the title is text, the body HTML."""
    title = escape(title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} - sdsjax</title><style>{text_of('report.css')}</style></head>"
        f"<body><main><h1>{title}</h1>{body}"
        "<footer>Written by sdsjax. This page needs no network.</footer>"
        "</main></body></html>\n"
    )


def is_marked(path: Path, mark: str) -> bool:
    """Tells whether a file holds a page's mark, or is not there: it may be replaced."""
    try:
        return mark in path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False


def truth_table(truth: Mapping | None) -> str:
    """The scores against ground truth, beside their ceiling where it is known.

    Of an edited asset also those against what it was.
    """
    if not truth:
        return ""
    beside = {"Ceiling": truth.get("ceiling"), "The source": truth.get("source")}
    beside = {name: scores for name, scores in beside.items() if scores}
    rows = []
    for key, label, unit, better in TRUTH_ROWS:
        if key not in truth:
            continue
        values = truth[key], *(scores.get(key) for scores in beside.values())
        cells = ["-" if v is None else f"{number(v)} {unit}" for v in values]
        rows.append([f"{label} <small>({better} is better)</small>", *cells])
    return table(rows, ("Score", "This run", *beside))


def _facts(run: Run) -> str:
    metrics = run.metrics
    seconds = metrics.get("seconds")
    estimator = dict(run.config.get("estimator") or {})
    name = estimator.pop("name", "")
    settings = ", ".join(f"{k} {v}" for k, v in estimator.items() if v is not None)
    prior = run.config.get("prior") or {}
    known = {
        "Negative prompt": run.config.get("negative_prompt"),
        "Estimator": f"{name} ({settings})" if settings else name,
        "Prior": " ".join(str(prior[k]) for k in ("name", "folder") if prior.get(k)),
        "Representation": (run.config.get("representation") or {}).get("name"),
        "Steps": metrics.get("steps"),
        "Views a step": run.config.get("batch_size"),
        "Seed": run.config.get("seed"),
        "Time": f"{seconds:.0f} s" if seconds else None,
        "Device": metrics.get("device"),
        "Finished": metrics.get("written"),
    }
    rows = [[k, escape(str(v))] for k, v in known.items() if v not in (None, "")]
    return table(rows)


def _strip(run: Run, limit: int = 10) -> str:
    """The previews from first to last, at most `limit`, evenly spaced."""
    shown = [(step, path) for step, path in run.previews if _shown(path)]
    if len(shown) > limit:
        picks = [round(i * (len(shown) - 1) / (limit - 1)) for i in range(limit)]
        shown = [shown[i] for i in picks]
    figures = (figure(p, f"step {step}", kind="pixels") for step, p in shown)
    body = "".join(figures)
    return f'<div class="strip">{body}</div>' if body else ""


def _artifacts(run: Run) -> str:
    rows = []
    for name, path in run.paths.items():
        if name == "report" or not path.is_file():
            continue
        link = f'<a href="{escape(path.name, quote=True)}">{escape(path.name)}</a>'
        size = path.stat().st_size
        shown = f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
        rows.append([link, f"{shown}", f"<code>{sha256(path)}</code>"])
    listed = table(rows, ("File", "Size", "SHA-256"))
    return listed.replace("<td class=number><code>", "<td><code>").replace(
        "<th class=number>SHA", "<th>SHA"
    )


def _reproduce(run: Run) -> str:
    reproduce, resume = run.commands
    return (
        "<p>From scratch, in a directory of its own:</p>"
        f"<pre>{escape(reproduce)}</pre>"
        "<p>To continue where this directory stands (raise <code>--config.steps</code> "
        "to go on after the end):</p>"
        f"<pre>{escape(resume)}</pre>"
    )


def _config(run: Run) -> str:
    lines = "\n".join(
        f"{k} = {json.dumps(v, default=str)}" for k, v in flatten(run.config)
    )
    versions = ", ".join(
        f"{k} {v}" for k, v in (run.metrics.get("versions") or {}).items()
    )
    return (
        f"<p>{escape(versions)}</p><p>What each key means, its unit and range: "
        f"{_references(run.config)}.</p><details><summary>Resolved config</summary>"
        f"<pre>{escape(lines)}</pre></details>"
    )


def _references(config: Mapping[str, Any]) -> str:
    """Links to the page of all keys, and to what it says of this run's choices."""
    places = [("every key", "")]
    for section in CHOSEN:
        name = (config.get(section) or {}).get("name")
        if name:
            places.append((f"{section} {name}", f"#{section}name--{name}"))
    links = (
        f'<a href="{REFERENCE}{escape(anchor, quote=True)}">{escape(text)}</a>'
        for text, anchor in places
    )
    return ", ".join(links)


def _warnings(run: Run) -> str:
    if not run.warnings:
        return ""
    items = "".join(f"<li>{escape(str(line))}</li>" for line in run.warnings)
    return (
        '<div class="warnings" role="note"><strong>Warnings</strong>'
        f"<ul>{items}</ul></div>"
    )


def _hero(run: Run) -> str:
    picture = figure(run.paths.get("image"), "The picture", kind="pixels")
    turntable = figure(
        run.paths.get("turntable"), "Turntable: colour, depth, normal, opacity"
    )
    truth = truth_table(run.metrics.get("truth"))
    left = run.viewer or picture
    right = f'<div class="stack">{truth}{_facts(run)}</div>'
    return turntable + f'<div class="hero" style="margin-top:20px">{left}{right}</div>'


def report_html(run: Run) -> str:
    """The page. Pure but for reading the files it embeds."""
    badge = "badge" if run.status == "finished" else "badge aborted"
    views = figure(
        run.paths.get("views"),
        "Front, left side, right side, back, overhead: the asset"
        + (" (top) and the truth (bottom)" if run.metrics.get("truth") else ""),
    )
    sections = [
        _warnings(run),
        _hero(run),
        section("Fixed views", views),
        run.numbers,
        section("Particles", figure(run.paths.get("particles"), "A row a particle")),
        section("On the way", _strip(run)),
        section("Gradient variance", variance_html(run.history)),
        section("Curves", plots_html(split_history(run.history)[0])),
        section("Repeat and continue", _reproduce(run)),
        section("Files", _artifacts(run)),
        section("Versions and config", _config(run)),
    ]
    lede = (
        f'<p class="lede"><span class="{badge}">{escape(run.status)}</span>'
        f"{escape(run.preset)}, seed {escape(str(run.config.get('seed', '-')))}</p>"
    )
    return page(run.prompt, lede + "".join(sections))
