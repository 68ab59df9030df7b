"""Lists of the same prompts on one offline page: a row a prompt, a column a config.

    python -m sdsjax.compare LIST LIST ... --out=page.html

Above the rows stand the means with their standard errors over the prompts, and the
differences to the first list within the prompts that both have: of two configs the
prompts are the same, so that the spread between prompts drops out. What was measured
differently (by another network, or among other captions) is shown and not compared.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from scipy.special import stdtrit

from sdsjax.diagnostics.plots import number
from sdsjax.diagnostics.statistics import mean_error, paired_difference
from sdsjax.exports.compare import MARK
from sdsjax.exports.report import page, section, table
from sdsjax.exports.scores.columns import (
    ROWS,
    Column,
    Shown,
    incomparable,
    picture_of,
    values_of,
)
from sdsjax.files.atomic import write_bytes

WIDTH = 480  # px of an embedded picture
LEVEL = 0.95  # of the interval outside of which 0 lies where a difference is bold
STYLE = (
    "<style>.prompts td{min-width:220px}.prompts img{display:block;width:100%;"
    "height:auto;background:#fff;margin-bottom:6px}.prompts .none{background:"
    "var(--code);padding:22px 10px;text-align:center;margin-bottom:6px}"
    ".prompts .figures{display:grid;grid-template-columns:1fr auto;gap:0 10px;"
    "font-size:13px}.prompts .figures span:nth-child(even){text-align:right}"
    ".prompts th{width:150px;color:var(--ink);overflow-wrap:anywhere}"
    ".card{overflow-x:auto}main{max-width:1400px}</style>"
)


def _thumbnail(path: Path) -> str:
    """Makes a data URI of a picture, WIDTH px wide; "" where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
            height = max(round(small.height * WIDTH / small.width), 1)
            if small.width > WIDTH:
                small = small.resize((WIDTH, height), Image.Resampling.LANCZOS)
            stream = io.BytesIO()
            small.save(stream, "WEBP", quality=88)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{text}"


def _better(key: str) -> str:
    return next(better for name, _, _, better in ROWS if name == key)


def _best(shown: Sequence[Shown], key: str) -> float | None:
    """Returns the best value among assets; None where there is nothing to beat."""
    values = [one.figures[key].value for one in shown if key in one.figures]
    choose = {"higher": max, "lower": min}.get(_better(key))
    if choose is None or len(values) < 2 or min(values) == max(values):
        return None
    return choose(values)


def _cell(prompt: str, shown: Shown, best: Mapping[str, float | None], beside) -> str:
    """Makes what a row shows of one asset: picture or what is wrong, and figures."""
    path = picture_of(shown.folder) if shown.status == "finished" else None
    source = _thumbnail(path) if path else ""
    media = '<div class="none">no picture</div>'
    if shown.status != "finished":
        said = f'<span class="badge aborted">{escape(shown.status)}</span>'
        media = f'<div class="none">{said}<div>{escape(shown.note)}</div></div>'
    elif source:
        media = f'<img src="{source}" alt="{escape(prompt, quote=True)}">'
    report = shown.folder / "report.html"
    if report.is_file():
        where = quote(Path(os.path.relpath(report, beside)).as_posix())
        media = f'<a href="{escape(where, quote=True)}">{media}</a>'
    lines = ""
    for key, label, unit, _ in ROWS:
        if key not in shown.figures:
            continue
        value = shown.figures[key].value
        text = f"{number(value)} {unit}".strip()
        text = f"<strong>{text}</strong>" if best.get(key) == value else text
        lines += f"<span>{escape(label)}</span><span>{text}</span>"
    return f'{media}<div class="figures">{lines}</div>'


def prompt_rows(prompts: Sequence[str], columns: Sequence[Column], beside: Path) -> str:
    """Makes the table of some prompts; beside: the folder in which the page stands."""
    wrong, rows = set(incomparable(columns)), []
    for prompt in prompts:
        shown = [column.assets[prompt] for column in columns]
        keys = [key for key, *_ in ROWS if key not in wrong]
        best = {key: _best(shown, key) for key in keys}
        cells = "".join(f"<td>{_cell(prompt, s, best, beside)}</td>" for s in shown)
        rows.append(f"<tr><th>{escape(prompt)}</th>{cells}</tr>")
    head = "".join(f"<th>{escape(column.name)}</th>" for column in columns)
    return (
        f'<div class="card prompts"><table><thead><tr><th>Prompt</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _spread(mean: float, error: float, unit: str) -> str:
    text = number(mean) if math.isnan(error) else f"{number(mean)} ± {error:.2g}"
    return f"{text} {unit}".strip()


def _difference(column: Column, first: Column, key: str, unit: str) -> str:
    """Compares a column with the first, prompt by prompt: difference, wins."""
    ours, base = values_of(column, key), values_of(first, key)
    mean, error, count = paired_difference(ours, base)
    if not count:
        return "-"
    gaps = [ours[pair] - base[pair] for pair in ours if pair in base]
    text = _spread(mean, error, unit)
    # Student's: of three prompts 2.6 errors are nothing yet; one alone has no error
    if count > 1 and abs(mean) > stdtrit(count - 1, 0.5 + 0.5 * LEVEL) * error:
        text = f"<strong>{text}</strong>"
    better = _better(key)
    if not better:
        return f"{text}<br><small>of {count}</small>"
    sign = 1 if better == "higher" else -1
    won = sum(sign * gap > 0 for gap in gaps)
    lost = sum(sign * gap < 0 for gap in gaps)
    ties = f", {count - won - lost} equal" if count > won + lost else ""
    return f"{text}<br><small>better {won}, worse {lost}{ties}</small>"


def means_table(columns: Sequence[Column]) -> str:
    """Makes the table of means over the prompts, and of differences to the first."""
    first, *others = columns
    wrong, rows = set(incomparable(columns)), []
    for key, label, unit, better in ROWS:
        each = [values_of(column, key) for column in columns]
        if key in wrong or not any(each):
            continue
        cells = []
        for found in each:
            mean = _spread(*mean_error(list(found.values())), unit) if found else "-"
            cells.append(f"{mean}<br><small>of {len(found)}</small>")
        cells += [_difference(column, first, key, unit) for column in others]
        hint = f" <small>({better} is better)</small>" if better else ""
        rows.append([f"{label}{hint}", *cells])
    names = [escape(column.name) for column in columns]
    differences = [f"{name} - {names[0]}" for name in names[1:]]
    return table(rows, ("Mean over the prompts", *names, *differences))


def _of_group(column: Column, prompts: Sequence[str]) -> Column:
    return column._replace(assets={p: column.assets[p] for p in prompts})


def _facts(columns: Sequence[Column]) -> str:
    rows = []
    for column in columns:
        done = sum(s.status == "finished" for s in column.assets.values())
        counts = f"{done} of {len(column.assets)} finished"
        rows.append([escape(column.name), escape(column.config or "-"), counts])
    return table(rows, ("List", "Config", "Assets"))


def _warnings(columns: Sequence[Column]) -> str:
    lines = []
    labels = {key: label for key, label, _, _ in ROWS}
    for key in incomparable(columns):
        lines.append(
            f"{labels[key]} was not measured by the same network, views and captions "
            "everywhere, and is not compared: python -m sdsjax.evaluate on all lists"
        )
    for column in columns:
        bad = [s for s in column.assets.values() if s.status != "finished"]
        if bad:
            lines.append(
                f"{column.name}: {len(bad)} of {len(column.assets)} assets failed or "
                "are missing; its means are of the others, its differences of the "
                "prompts that both lists have"
            )
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warnings" role="note"><ul>{items}</ul></div>' if lines else ""


def list_page(
    groups: Mapping[str, Sequence[str]], columns: Sequence[Column], beside: Path
) -> str:
    """Makes the page that is to stand in `beside`.

    groups: name ("" for none) -> prompts, in their order; every column has each prompt.
    Pure but for reading the pictures it embeds.
    """
    how = (
        "<p>Mean ± standard error over the prompts that have a figure. Differences are "
        "within the prompts that both lists have; in bold where 0 is outside "
        f"of their {LEVEL:.0%} interval (Student's).</p>"
    )
    body = STYLE + _warnings(columns) + section("Lists", _facts(columns))
    body += section("Means", how + means_table(columns))
    named = [name for name in groups if name]
    for name, prompts in groups.items():
        title = name or ("Of no group" if named else "Prompt by prompt")
        part = [_of_group(column, prompts) for column in columns]
        said = f"<details><summary>Means of this group ({_count(prompts)})</summary>"
        means = f"{said}{means_table(part)}</details><br>" if named else ""
        body += section(title, means + prompt_rows(prompts, columns, beside))
    every = [prompt for prompts in groups.values() for prompt in prompts]
    title = f"{len(columns)} lists of {_count(every)}"
    return page(title, f"{MARK}>{body}</div>")


def _count(prompts: Sequence[str]) -> str:
    return f"{len(prompts)} prompt" + ("s" if len(prompts) != 1 else "")


def write_list_page(
    path: Path, groups: Mapping[str, Sequence[str]], columns: Sequence[Column]
) -> Path:
    """Writes the page, whole or not at all. Raises OSError."""
    text = list_page(groups, columns, path.resolve().parent)
    return write_bytes(path, text.encode("utf-8"))
