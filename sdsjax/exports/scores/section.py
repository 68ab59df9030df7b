"""The report's section of numbers by other networks, which may be put in later.

A report has a place for it between two marks; `replace_section` writes what stands
there anew, when the numbers of a finished run are measured.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from sdsjax.diagnostics.plots import number
from sdsjax.evaluation.records import FIGURES, figures_of
from sdsjax.exports.report import section, table
from sdsjax.files.atomic import write_text

BEGIN, END = "<!-- numbers by other networks -->", "<!-- end of numbers -->"
TITLE = "CLIP and LPIPS"


def numbers_html(record: Mapping[str, Any], run: Path) -> str:
    """Makes the section, marks included; record: of scores.json, {} for none."""
    figures, rows = figures_of(record), []
    for key, _, label, better in FIGURES:
        if key in figures:
            hint = f" <small>({better} is better)</small>" if better else ""
            rows.append([f"{label}{hint}", number(figures[key].value)])
    lines = [_said_of_clip(record), *_missing(record, run)]
    said = "".join(f"<p>{line}</p>" for line in lines if line)
    body = f'{table(rows)}<div style="margin-top:12px">{said}</div>'
    return BEGIN + section(TITLE, body) + END


def _said_of_clip(record: Mapping[str, Any]) -> str:
    part = record.get("clip")
    if not isinstance(part, dict):
        return ""
    views = (part.get("views") or {}).get("orbits") or []
    shown = f"{len(views)} fixed views on white" if views else "the picture"
    text = (
        f"Similarity: the mean cosine of the prompt and {shown}, by "
        f"{part.get('network')} (papers that write 30 mean 0.30)."
    )
    if part.get("r_precision") is not None:
        text += (
            f" R-precision: the share of views nearer to the prompt than to any other "
            f"of {part.get('captions')} captions ({part.get('captions_from')})."
        )
    return escape(text)


def _missing(record: Mapping[str, Any], run: Path) -> list[str]:
    """Says what would give the numbers that are not there."""
    command = f"python -m sdsjax.evaluate {shlex.quote(str(run))}"
    lines = []
    clip = record.get("clip")
    if not isinstance(clip, dict):
        lines.append(
            f"CLIP similarity and R-precision: <code>{escape(command)}</code>, with "
            "<code>--clip=FOLDER</code> for a CLIP of your own."
        )
    elif clip.get("r_precision") is None:
        lines.append(
            "R-precision needs captions to choose among: "
            f"<code>{escape(command)} --captions=FILE</code>."
        )
    if not isinstance(record.get("lpips"), dict):
        lines.append(
            "LPIPS needs weights, which sdsjax does not bring: "
            f"<code>{escape(command)} --lpips=lpips-alex.safetensors</code>."
        )
    return lines


def replace_section(report: Path, record: Mapping[str, Any], run: Path) -> bool:
    """Puts a record's section into a report that has a place for it; tells whether.

    Raises OSError.
    """
    try:
        page = report.read_text(encoding="utf-8")
    except (FileNotFoundError, ValueError):
        return False
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    write_text(report, before + numbers_html(record, run) + after)
    return True
