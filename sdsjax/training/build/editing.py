"""From a config's `edit` section to what an editing run begins from and compares with.

`edit.path` names the source asset, `edit.source_prompt` what it shows. The asset (the
splats of a run or a PLY file, the field or the picture of a run) is where training
begins, and, frozen, what every view is compared with (`Prior.source`): it and the
source prompt's states travel with the prior's parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.exports.ply import read_splats
from sdsjax.representations.gaussians import (
    GaussianParams,
    Gaussians,
    as_gaussians,
)
from sdsjax.representations.radiance_field import NerfState
from sdsjax.training.build.finished_run import read_trained
from sdsjax.training.config import Config, ConfigError, from_json, to_json
from sdsjax.training.encoding import to_latent
from sdsjax.types import PriorSource, PyTree, Representation, Source, View


class EditingParams(NamedTuple):
    """The parameters of a prior for editing.

    target, source: of the prior with each prompt (networks are the same arrays); asset:
    the source asset, (params, state) of the representation.
    """

    target: PyTree
    source: PyTree
    asset: tuple[PyTree, PyTree]


class TrainedAsset(NamedTuple):
    """What a finished run left of a field or a picture: its parameters and state."""

    params: PyTree
    state: PyTree


# Settings of a representation that say what the numbers in its parameters are, or what
# its state holds; points along rays, losses and light may be others.
OF_PARAMETERS = {
    "nerf": (
        *("levels", "features", "log2_size", "base", "growth", "smooth"),
        *("hidden", "scene", "bound", "activation", "blob_scale", "blob_radius"),
        *("view_degree", "background_degree", "proposal", "occupancy"),
    ),
    "image": ("space",),
}
# what decides the shapes of a field's arrays is compared by name before
SHAPED_BY = {"image": "pass --config.resolution, in space 'latent' the same prior"}


def edits(config: Config) -> bool:
    """Tells whether a run begins from an asset that it edits."""
    return bool((config.get("edit") or {}).get("path"))


def of_source_prompt(config: Config) -> Config:
    """Returns the config whose prompt is the source's, for its prior."""
    own = from_json(to_json(config))  # a copy that may be changed
    own.prompt = config.edit.source_prompt
    return own


def settings_that_differ(section: Config, stored: Config) -> dict[str, Any]:
    """Names the settings by which a run's parameters would mean something else.

    section, stored: the `representation` of the editing run and of the edited one, of
    one name; returns those of `stored` that are not `section`'s.
    """
    names = OF_PARAMETERS.get(section.name, ())
    said = {name: section.get(name) for name in names}
    return {
        name: stored[name]
        for name, value in said.items()
        if name in stored and stored[name] != value
    }


def read_asset(config: Config) -> Gaussians | TrainedAsset:
    """Reads what `edit.path` holds, a finished run's directory or a PLY file.

    Raises RunError, CheckpointError and PlyError for what cannot be read.
    """
    path = Path(config.edit.path).expanduser()
    if path.suffix.lower() == ".ply":
        return read_splats(path)
    run = read_trained(path)
    if isinstance(run.params, GaussianParams):
        return as_gaussians(run.params, run.state)
    return TrainedAsset(run.params, run.state)


def begun_from(
    config: Config, asset: Gaussians | TrainedAsset, representation: Representation
) -> Representation:
    """Makes the representation begin from an asset.

    Raises ConfigError for one that does not fit.
    """
    if isinstance(asset, Gaussians):
        return _begun_from_rows(config, asset, representation)
    return _begun_from_state(config, asset, representation)


def _begun_from_rows(
    config: Config, asset: Gaussians, representation: Representation
) -> Representation:
    """Fills the first rows with an asset's, the rest not alive.

    Raises ConfigError for more rows than there are, or another SH degree.
    """
    said, rows = config.representation, len(asset.means)
    degree = round(asset.sh.shape[1] ** 0.5) - 1
    if rows > said.count:
        raise ConfigError(
            f"{config.edit.path} holds {rows} splats, more than representation.count = "
            f"{said.count}: raise it"
        )
    if degree != said.sh_degree:
        raise ConfigError(
            f"{config.edit.path} has colours of SH degree {degree}, and "
            f"representation.sh_degree = {said.sh_degree}: set it to {degree}"
        )
    given = {k: np.asarray(v) for k, v in asset._asdict().items()}

    def init(key):
        params, state = representation.init(key)
        filled = {
            name: leaf.at[:rows].set(given[name].astype(leaf.dtype))
            for name, leaf in params._asdict().items()
        }
        alive = state.alive.at[:].set(False).at[:rows].set(given["alive"])
        return GaussianParams(**filled), state._replace(alive=alive)

    return representation._replace(init=init)


def _begun_from_state(
    config: Config, asset: TrainedAsset, representation: Representation
) -> Representation:
    """Takes parameters and state as the run left them.

    Raises ConfigError for arrays of other shapes, and for a field some of whose levels
    its progressive band had not let in.
    """
    shapes = TrainedAsset(*jax.eval_shape(representation.init, jax.random.key(0)))
    wanted = jax.tree_util.tree_leaves_with_path(shapes)
    found = jax.tree.leaves(asset)
    for (path, leaf), given in zip(wanted, found, strict=True):
        if leaf.shape != given.shape:
            raise ConfigError(
                f"{config.edit.path} holds {jax.tree_util.keystr(path)[1:]} of shape "
                f"{given.shape}, and this run's has {leaf.shape}: "
                + SHAPED_BY.get(config.representation.name, "choose the same settings")
            )
    if isinstance(asset.state, NerfState):
        weights = np.asarray(asset.state.level_weights)
        if (weights < 1).any():
            raise ConfigError(
                f"{config.edit.path} ended while its progressive band let in "
                f"{int((weights == 1).sum())} of {len(weights)} levels: train it "
                "longer (--config.steps), then edit it"
            )
    given = jax.tree.map(np.asarray, asset)

    def init(key):
        del key
        made = jax.tree.map(lambda a, s: jnp.asarray(a, s.dtype), given, shapes)
        return made.params, made.state

    return representation._replace(init=init)


def with_source(
    target: PriorSource, source: PriorSource, representation: Representation
) -> PriorSource:
    """Makes the prior of an editing run; representation: `begun_from` the asset."""
    asset: Any = jax.jit(representation.init)(jax.random.key(0))

    def bind(params: EditingParams):
        prior, other = target.bind(params.target), source.bind(params.source)
        frozen = jax.lax.stop_gradient(params.asset)

        def one(camera):
            # any key: the background is of one colour (cli/checks)
            rgb = representation.render(*frozen, camera, jax.random.key(0)).rgb
            return to_latent(target, prior, representation.space, rgb)[0]

        def latent(view: View | None):
            assert view is not None
            assert view.camera is not None
            grouped = view.camera.focal.ndim == 2
            return (jax.vmap(one) if grouped else one)(view.camera)

        return prior._replace(source=Source(other.noise, latent))

    params = EditingParams(target.params, source.params, asset)
    return target._replace(params=params, bind=bind)
