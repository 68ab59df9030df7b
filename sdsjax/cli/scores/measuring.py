"""One finished run measured: its pictures drawn, its numbers and by what they are.

Nothing is trained; the numbers are those of `sdsjax.evaluation`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.evaluation.caption_lists import digest
from sdsjax.evaluation.clip_scores import ClipScorer
from sdsjax.evaluation.lpips_scores import FIXED_VIEWS, GIVEN, LpipsScorer
from sdsjax.evaluation.records import finished_step, short_name
from sdsjax.exports.ply import read_splats
from sdsjax.files.fingerprints import fingerprint
from sdsjax.files.pictures import BadReference, read_straight
from sdsjax.models.loading.companions import load_clip_scorer
from sdsjax.models.loading.hub import resolve
from sdsjax.models.loading.lpips.read_weights import files_of, load_lpips
from sdsjax.render.rasterize import rasterize
from sdsjax.runs.run_directory import RunError
from sdsjax.toybox.scoring.score import SIZE as TRUE_SIZE
from sdsjax.toybox.scoring.score import draw_views, true_views
from sdsjax.toybox.world.captions import CaptionError, parse_caption
from sdsjax.toybox.world.views import heldout_orbits
from sdsjax.training.build.editing import edits
from sdsjax.training.build.finished_run import FinishedRun, read_finished_run
from sdsjax.training.build.supervision import read_given_views
from sdsjax.training.config import Config, ConfigError, from_json, load_json, to_json

PICTURE = "image.png"  # what a run of the representation `image` leaves


class Clip(NamedTuple):
    """CLIP's scorer, and what it was read from: folder, fingerprint of its weights."""

    scorer: ClipScorer
    folder: str
    weights: str


class Lpips(NamedTuple):
    """LPIPS's scorer, its network's name, and what it was read from."""

    scorer: LpipsScorer
    network: str
    folder: str
    weights: str


class Drawn(NamedTuple):
    """A finished run: its config, last step, and what draws it.

    run: None for a flat picture, which is `picture` [1 h w 3] in [0, 1].
    """

    config: Config
    step: int
    run: FinishedRun | None
    picture: np.ndarray | None


def _fingerprint(files: Iterable[Path]) -> str:
    return short_name({path.name: fingerprint(path) for path in files})


def read_clip(folder: str) -> Clip:
    """Reads CLIP's two towers and their tokenizer. Raises LoaderError, in one line."""
    root = resolve(folder, folders=("",))
    scorer = ClipScorer(*load_clip_scorer(root))
    return Clip(scorer, folder, _fingerprint(sorted(root.glob("*.safetensors"))))


def read_lpips(path: str) -> Lpips:
    """Reads LPIPS's network. Raises LoaderError, in one line."""
    network = load_lpips(path)
    weights = _fingerprint(files_of(path))
    return Lpips(LpipsScorer(network), network.config, path, weights)


def read_drawn(folder: Path) -> Drawn:
    """Reads a finished run, of splats, a field or a flat picture.

    Raises RunError, CheckpointError.
    """
    path = folder / "config.json"
    flat = path.is_file() and load_json(path).representation.name == "image"
    if not flat:
        run = read_finished_run(folder)
        return Drawn(run.config, run.step, run, None)
    step = finished_step(folder)
    assert step is not None  # check_finished
    try:
        rgba = read_straight(folder / PICTURE)
    except BadReference as error:
        raise RunError(f"{folder}: {error}") from error
    return Drawn(load_json(path), step, None, rgba[None, ..., :3])


def measure_clip(drawn: Drawn, clip: Clip, captions: Sequence[str], named: str) -> dict:
    """Measures CLIP similarity, and R-precision among captions, the prompt with them.

    named: what to call the list; without captions but the prompt no R-precision.
    Returns the section `clip` of scores.json.
    """
    orbits = [list(orbit) for orbit in heldout_orbits()]
    if drawn.run is None:
        orbits, rgb = [], drawn.picture
    else:
        rgb = draw_views(drawn.run.render, orbits, size=clip.scorer.size).rgb
    assert rgb is not None
    found = clip.scorer.score(rgb, drawn.config.prompt, captions)
    measured = {"weights": clip.weights, "orbits": orbits}
    among = digest(captions)
    return {
        "similarity": found.similarity,
        "r_precision": found.r_precision,
        "captions": len(captions),
        "captions_from": named,
        "network": clip.folder,
        "weights": clip.weights,
        "by": {
            "similarity": short_name(measured),
            "r_precision": short_name({**measured, "captions": among}),
        },
        "views": {
            "orbits": orbits,
            "size": clip.scorer.size if drawn.run else max(rgb.shape[1:3]),
            "similarity": found.similarities,
            "nearest": [captions[index] for index in found.best],
        },
    }


def measure_lpips(drawn: Drawn, lpips: Lpips) -> tuple[dict, list[str]]:
    """Measures LPIPS to each thing that a run can be compared with.

    Returns the section `lpips` of scores.json, and a line for what could not be read.
    """
    notes: list[str] = []
    section: dict[str, Any] = {
        "network": lpips.network,
        "file": lpips.folder,
        "weights": lpips.weights,
        "by": {},
        "views": {},
    }
    run = drawn.run
    if run is None:
        return section, [f"{PICTURE} alone: nothing that LPIPS could compare it with"]
    pairs = {"truth": _to_truth, "reference": _to_reference, "source": _to_source}
    for name, make in pairs.items():
        try:
            pair = make(run)
        except (ValueError, OSError, RuntimeError) as error:
            line = " ".join(str(error).split())
            notes.append(f"LPIPS to the {name} was not measured: {line}")
            continue
        if pair is None:
            continue
        values = lpips.scorer.distances(*pair)
        section[name] = float(np.mean(values))
        section["views"][name] = values
        size = pair[0].shape[1]
        by = {"weights": lpips.weights, "size": size, "what": name, "n": len(values)}
        section["by"][name] = short_name(by)
    return section, notes


def _to_truth(run: FinishedRun) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        spec, _ = parse_caption(run.config.prompt)
    except CaptionError:
        return None
    assert TRUE_SIZE == FIXED_VIEWS
    orbits = heldout_orbits()
    truth = true_views(spec, orbits, size=FIXED_VIEWS)
    return draw_views(run.render, orbits, size=FIXED_VIEWS).rgb, truth.rgb


def _to_reference(run: FinishedRun) -> tuple[np.ndarray, np.ndarray] | None:
    if not (run.config.get("reference") or {}).get("path"):
        return None
    config = from_json(to_json(run.config))  # a copy that may be changed
    config.resolution = GIVEN
    given = read_given_views(config)
    white = given.rgb + (1.0 - given.mask[..., None])
    drawn = []
    for index in range(len(white)):
        camera = jax.tree.map(operator.itemgetter(index), given.cameras)
        drawn.append(np.asarray(run.render(camera).rgb))
    return np.stack(drawn), np.asarray(white)


def _to_source(run: FinishedRun) -> tuple[np.ndarray, np.ndarray] | None:
    if not edits(run.config):
        return None
    path = Path(run.config.edit.path).expanduser()
    if path.suffix.lower() == ".ply":
        splats, white = read_splats(path), jnp.ones(3)
        look = lambda camera: rasterize(splats, camera, background=white)  # noqa: E731
    else:
        look = read_finished_run(path).render
    orbits = heldout_orbits()
    edited = draw_views(run.render, orbits, size=FIXED_VIEWS).rgb
    return edited, draw_views(look, orbits, size=FIXED_VIEWS).rgb


def check_finished(folder: Path) -> None:
    """Raises ConfigError for a directory whose run is not done, before it is read."""
    if finished_step(folder) is None:
        raise ConfigError(
            f"{folder} is not finished: python -m sdsjax.main --workdir={folder} goes "
            "on with it"
        )
