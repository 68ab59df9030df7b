"""From a config's `edit` section to what an editing run begins from and compares with.

`edit.path` names the source asset, `edit.source_prompt` what it shows. The asset's
splats are where training begins, and, frozen, what every view is compared with
(`Prior.source`): they and the source prompt's states travel with the prior's
parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sdsjax.exports.ply import read_splats
from sdsjax.representations.gaussians import GaussianParams, Gaussians
from sdsjax.training.build.finished_run import read_finished_run
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


def edits(config: Config) -> bool:
    """Tells whether a run begins from an asset that it edits."""
    return bool((config.get("edit") or {}).get("path"))


def of_source_prompt(config: Config) -> Config:
    """Returns the config whose prompt is the source's, for its prior."""
    own = from_json(to_json(config))  # a copy that may be changed
    own.prompt = config.edit.source_prompt
    return own


def read_asset(config: Config) -> Gaussians:
    """Reads the splats of `edit.path`, a finished run's directory or a PLY file.

    Raises ConfigError for a run of another representation, RunError, CheckpointError
    and PlyError for what cannot be read.
    """
    path = Path(config.edit.path).expanduser()
    if path.suffix.lower() == ".ply":
        return read_splats(path)
    asset = read_finished_run(path).asset
    if not isinstance(asset, Gaussians):
        raise ConfigError(
            f"edit.path: {path} trained a radiance field, and editing begins from "
            "splats: pass a run of Gaussians, or a splats.ply"
        )
    return asset


def begun_from(
    config: Config, asset: Gaussians, representation: Representation
) -> Representation:
    """Makes the representation begin from an asset's rows, the rest not alive.

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
