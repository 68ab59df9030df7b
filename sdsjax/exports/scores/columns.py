"""What a list of prompts left, read for a page: a column of assets with their figures.

Figures are the toybox's scores against the truth (metrics.json) and those by other
networks (scores.json), each with what it was measured by, since only equal ones
compare. Times are left out: assets that are trained together share theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sdsjax.evaluation.records import FIGURES, Figure, all_figures
from sdsjax.exports.report import TRUTH_ROWS
from sdsjax.files.atomic import read_object

# key, label, unit, which is better
ROWS = (
    *((key, label, "", better) for key, _, label, better in FIGURES),
    *TRUTH_ROWS,
)
PICTURES = ("views.png", "image.png")


class Shown(NamedTuple):
    """One asset as a page shows it.

    status: "finished", or in a word why it is not; note: a line about it, or "";
    folder: its run directory, which may not be there; figures: {} of an unfinished one.
    """

    status: str
    note: str
    folder: Path
    figures: dict[str, Figure]


class Column(NamedTuple):
    """A list of prompts: its name, the config it says it is of, prompt -> asset."""

    name: str
    config: str
    assets: dict[str, Shown]


def read_shown(folder: Path, status: str, note: str = "") -> Shown:
    """Reads an asset; what cannot be read of it is no figure."""
    figures: dict[str, Figure] = {}
    if status == "finished":
        figures = all_figures(folder, read_object(folder / "metrics.json"))
    return Shown(status, note, folder, figures)


def config_of(folder: Path) -> str:
    """Reads the config that a run was asked for by its command, "" if none."""
    sessions = read_object(folder / "run.json").get("sessions")
    for session in sessions if isinstance(sessions, list) else []:
        words = session.get("command") if isinstance(session, dict) else None
        for word in words if isinstance(words, list) else []:
            if isinstance(word, str) and word.startswith("--config="):
                return word.removeprefix("--config=")
    return ""


def picture_of(folder: Path) -> Path | None:
    """Finds the picture of an asset: its views, or the flat picture itself."""
    found = (folder / name for name in PICTURES)
    return next((path for path in found if path.is_file()), None)


def incomparable(columns: Sequence[Column]) -> list[str]:
    """Lists the figures that were not measured by the same in all the columns."""
    by: dict[str, set[str]] = {}
    for column in columns:
        for shown in column.assets.values():
            for key, figure in shown.figures.items():
                by.setdefault(key, set()).add(figure.by)
    return [key for key, *_ in ROWS if len(by.get(key, ())) > 1]


def values_of(column: Column, key: str) -> dict[tuple[str], float]:
    """Returns (prompt,) -> value, of the assets that have this figure."""
    return {
        (prompt,): shown.figures[key].value
        for prompt, shown in column.assets.items()
        if key in shown.figures
    }
