"""The asset of a run, read from its directory without training.

`read_trained` has it as parameters and state, `read_finished_run` as what is exported.
Only the representation is built, from the config that the directory keeps: no weights,
no estimator, no file that the run began from. Nothing is written.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from sdsjax.representations.gaussians import GaussianParams, as_gaussians
from sdsjax.runs.checkpoints import CheckpointError, Checkpoints, named_leaves
from sdsjax.runs.run_directory import RunError, read_json
from sdsjax.training.build.representation import build_representation
from sdsjax.training.config import Config, from_json, load_json, to_json
from sdsjax.training.previews import make_draw
from sdsjax.types import PyTree, Representation

NO_PICTURE = (8, 8, 3)  # the shape that is said where no pixels are trained


class FinishedRun(NamedTuple):
    """A run as its directory keeps it: config, step, and its first particle.

    asset: Gaussians with their flags, or a field as a function of points (compiled);
    render: camera -> Rendering on white, compiled, for a size once.
    """

    config: Config
    step: int
    asset: Any
    render: Any


class Trained(NamedTuple):
    """What training left of a run's first particle, and what renders it."""

    config: Config
    representation: Representation
    params: PyTree
    state: PyTree


class _Parts(NamedTuple):
    # the parts of a TrainState that an asset is made of, under its names
    params: Any
    rep_state: Any


class _Kind(NamedTuple):
    # what runs of one config have in common: shapes of their parts, jitted functions
    representation: Representation
    shapes: _Parts
    draw: Any
    field: Any


def read_finished_run(folder: str | Path) -> FinishedRun:
    """Reads the asset that a finished run left. Raises RunError, CheckpointError."""
    folder = Path(folder)
    return _read(folder, _last_step(folder))


def read_trained(folder: str | Path) -> Trained:
    """Reads parameters and state that a finished run of any representation left.

    Raises RunError, CheckpointError.
    """
    folder = Path(folder)
    step = _last_step(folder)
    return _read_trained(folder, step, _stored_config(folder))


def _last_step(folder: Path) -> int:
    # of a finished run
    _check_directory(folder)
    finished = read_json(folder / "finished.json")
    step = (finished or {}).get("step")
    if not isinstance(step, int):
        raise RunError(
            f"{folder} is not finished: python -m sdsjax.main --workdir={folder} goes "
            "on with it"
        )
    return step


def read_newest(folder: str | Path) -> FinishedRun:
    """Reads the newest asset that a run has saved, whether it is finished or goes on.

    Raises RunError, also where nothing is saved yet, and CheckpointError where no
    checkpoint is intact.
    """
    folder = Path(folder)
    _check_directory(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in reversed(checkpoints.steps()):
        try:
            checkpoints.verify(step)
        except CheckpointError:  # being written, or removed just now
            continue
        return _read(folder, step)
    raise RunError(
        f"{folder} has no checkpoint yet: wait for its first (checkpoint_every), or "
        "train it with --view"
    )


def _stored_config(folder: Path) -> Config:
    stored = folder / "config.json"
    if not stored.is_file():
        raise RunError(f"{folder} has lost its config.json")
    return load_json(stored)


def _read(folder: Path, step: int) -> FinishedRun:
    config = _stored_config(folder)
    if config.representation.name == "image":
        raise RunError(
            f"{folder} distilled a flat picture (representation 'image'): it has no "
            "splats and no mesh; the picture is image.png"
        )
    trained = _read_trained(folder, step, config)
    kind, parts = _kind_of(config), (trained.params, trained.state)
    render = Partial(kind.draw, *parts)
    if isinstance(trained.params, GaussianParams):
        return FinishedRun(config, step, as_gaussians(*parts), render)
    return FinishedRun(config, step, Partial(kind.field, *parts), render)


def _read_trained(folder: Path, step: int, config: Config) -> Trained:
    said = config.representation
    with config.unlocked():
        if str(said.get("init", "")).lower().endswith(".ply"):
            said.init = "ball"  # the file may be gone, and its points are trained now
    leaves = Checkpoints(folder / "checkpoints").load_leaves(step)
    stored = {name.partition("_")[2]: leaf for name, leaf in leaves.items()}
    if config.get("particles", 1) > 1:
        of_particles = ("params_", "rep_state_")
        stored = {
            name: leaf[0] if name.startswith(of_particles) else leaf
            for name, leaf in stored.items()
        }
    kind = _kind_of(config, stored.get("params_pixels", np.zeros(NO_PICTURE)).shape)
    shapes = kind.shapes
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    found = []
    for name, wanted in named_leaves(blank).items():
        leaf = stored.get(name.partition("_")[2])
        if leaf is None or leaf.shape != wanted.shape:
            raise RunError(
                f"{folder}: its checkpoint holds another state than its config makes "
                f"({name.partition('_')[2]}): was config.json changed?"
            )
        found.append(jax.numpy.asarray(leaf))
    parts = jax.tree.unflatten(jax.tree.structure(shapes), found)
    return Trained(config, kind.representation, parts.params, parts.rep_state)


def _kind_of(config: Config, picture: tuple[int, ...] = NO_PICTURE) -> _Kind:
    # runs of one config share their programs, as those of a list of prompts are
    return _made(json.dumps(to_json(config) | {"prompt": "", "seed": 0}), picture)


@lru_cache(maxsize=4)
def _made(config_text: str, picture: tuple[int, ...]) -> _Kind:
    representation = build_representation(from_json(json.loads(config_text)), picture)
    shapes = _Parts(*jax.eval_shape(representation.init, jax.random.key(0)))
    field = representation.field and jax.jit(representation.field)
    return _Kind(representation, shapes, make_draw(representation), field)


def _check_directory(folder: Path) -> None:
    """Raises RunError for what is no directory of a run."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RunError(f"{folder} {what}: pass the directory of a run")
    if read_json(folder / "run.json") is None:
        raise RunError(
            f"{folder} was not made by sdsjax (it holds no run.json): pass the "
            "directory of a run"
        )
