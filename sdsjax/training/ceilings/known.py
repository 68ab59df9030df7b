"""Ceilings that need no fit: those shipped with the package and those kept in a cache.

A ceiling is a property of (prompt, representation), not of a run: `ceiling.fit` costs
about as much as half a run. `known.json` holds those of the default representation
for the prompts of experiments/toybox_quality and the default one (the command that
wrote it: experiments/startup/ship_ceilings.py); what `scoring.ceiling` computes is kept
in the user's cache folder, beside the compile cache.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sdsjax import __version__
from sdsjax.files.atomic import write_text
from sdsjax.runs.compile_cache import user_cache_directory
from sdsjax.toybox.world.captions import CaptionError, parse_caption
from sdsjax.training.ceilings.fit import ceiling, settings_for
from sdsjax.training.config import Config, to_json

SHIPPED = "known.json"


def setting_of(config: Config) -> dict[str, Any]:
    """Returns what a ceiling depends on.

    The prompt, the section `representation`, and the one weight of `losses` that the
    fit reads.
    """
    plain = to_json(config)
    return {
        "prompt": plain["prompt"],
        "representation": plain["representation"],
        "interlevel": plain["losses"].get("interlevel", 0.0),
    }


@cache
def _shipped() -> dict:
    text = (
        resources.files("sdsjax.training.ceilings").joinpath(SHIPPED).read_text("utf-8")
    )
    return json.loads(text)


def _cached_path(setting: dict) -> Path:
    text = json.dumps([__version__, setting], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    return user_cache_directory() / "sdsjax" / "ceilings" / f"{name}.json"


def _are_scores(scores: Any) -> bool:
    return isinstance(scores, dict) and all(
        value is None or (isinstance(value, int | float) and math.isfinite(value))
        for name, value in scores.items()
        if name != "views"
    )


def known_ceiling(setting: dict) -> dict | None:
    """Looks up the scores of exactly this setting, shipped or cached; None if unknown.

    A file of the cache that cannot be read or holds something else is none.
    """
    shipped = _shipped()
    if all(setting[key] == shipped[key] for key in ("representation", "interlevel")):
        scores = shipped["scores"].get(setting["prompt"])
        if scores is not None:
            return scores
    try:
        row = json.loads(_cached_path(setting).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(row, dict) or row.get("setting") != setting:
        return None
    return row["scores"] if _are_scores(row.get("scores")) else None


def keep_ceiling(setting: dict, scores: dict) -> None:
    """Keeps scores for the next run; a cache that cannot be written is no failure."""
    path = _cached_path(setting)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, json.dumps({"setting": setting, "scores": scores}))
    except OSError:
        return


def ceiling_of_run(config: Config, representation, params) -> dict | None:
    """Returns the ceiling that a run's report shows, None where none is known.

    Only `scoring.ceiling` has one fitted that is not known yet, and keeps it. params: a
    run's, for their type: a picture in the plane, and a prompt outside the toybox, have
    no ceiling. Gaussians that begin from a file are never looked up: the file may have
    changed.
    """
    settings = settings_for(params)
    if not config.scoring.truth or settings is None:
        return None
    try:
        parse_caption(config.prompt)
    except CaptionError:
        return None
    setting = setting_of(config)
    named = not str(setting["representation"].get("init", "")).lower().endswith(".ply")
    found = known_ceiling(setting) if named else None
    if found is None and config.scoring.ceiling:
        found = ceiling(config.prompt, representation, **settings)
        if named:
            keep_ceiling(setting, found)
    return found
