"""Keeps numbers by other networks beside a run, and what they were measured by.

scores.json stands beside metrics.json, which is the run's own and stays as it is.
Numbers of an earlier step than the run's last are not shown.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sdsjax.files.atomic import read_object, write_bytes

SCORES = "scores.json"
MADE_BY = "sdsjax.evaluate"
SECTIONS = ("clip", "lpips")
# key, (section, its key), label, which is better
FIGURES = (
    ("clip_similarity", ("clip", "similarity"), "CLIP similarity", "higher"),
    ("clip_r_precision", ("clip", "r_precision"), "CLIP R-precision", "higher"),
    ("lpips_truth", ("lpips", "truth"), "LPIPS to the truth", "lower"),
    ("lpips_reference", ("lpips", "reference"), "LPIPS to the given picture", "lower"),
    ("lpips_source", ("lpips", "source"), "LPIPS to the source", ""),
)


class Figure(NamedTuple):
    """A number, and the short name of all that it was measured by.

    Two numbers of different `by` (another network, list or view) do not compare.
    """

    value: float
    by: str


def short_name(parts: Mapping[str, Any]) -> str:
    """Makes the short name of what a number was measured by."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def finished_step(run: Path) -> int | None:
    """Reads the step at which a run was finished; None while it is not."""
    step = read_object(run / "finished.json").get("step")
    return step if isinstance(step, int) else None


def of_step(run: Path, step: int | None) -> dict[str, Any]:
    """Reads a run's scores.json; {} where there is none of that step."""
    found = read_object(run / SCORES)
    current = found.get("made_by") == MADE_BY and found.get("step") == step
    return found if current and step is not None else {}


def read_record(run: Path) -> dict[str, Any]:
    """Reads a run's scores.json; {} where there is none of its last step."""
    return of_step(run, finished_step(run))


def may_be_replaced(run: Path) -> bool:
    """Tells whether a run's scores.json is ours, or is not there."""
    path = run / SCORES
    return not path.exists() or read_object(path).get("made_by") == MADE_BY


def write_record(run: Path, step: int, sections: Mapping[str, Any]) -> Path:
    """Writes sections of a run's scores.json; those that are not given stay.

    Raises OSError. A number that is not finite becomes null.
    """
    before = read_record(run)
    kept = {name: before[name] for name in SECTIONS if name in before}
    record = {"made_by": MADE_BY, "step": step, **kept, **_plain(sections)}
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    return write_bytes(run / SCORES, text.encode("utf-8"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def finite(value: Any) -> float | None:
    """Returns a finite number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def figures_of(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Lists the numbers of a record by FIGURES's keys, leaving out what is none."""
    found = {}
    for key, (section, name), _, _ in FIGURES:
        part = record.get(section)
        part = part if isinstance(part, dict) else {}
        value, by = part.get(name), part.get("by")
        by = by.get(name) if isinstance(by, dict) else None
        value = finite(value)
        if value is not None and isinstance(by, str):
            found[key] = Figure(value, by)
    return found


def read_figures(run: Path) -> dict[str, Figure]:
    """Reads the numbers beside a run, those of its last step."""
    return figures_of(read_record(run))


def all_figures(run: Path, metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """Lists a run's scores against the truth, of its metrics.json, and `read_figures`.

    Scores against the truth are measured by one program: their name says by what.
    """
    truth = metrics.get("truth")
    values = {k: finite(v) for k, v in truth.items()} if isinstance(truth, dict) else {}
    known = {k: Figure(v, k) for k, v in values.items() if v is not None}
    return known | read_figures(run)
