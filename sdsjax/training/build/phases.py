"""From a config to the phases of its run: resolution, batch size and random views."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from sdsjax.cameras import Camera, OrbitRange, random_orbits
from sdsjax.distributed.sharding import make_meshes
from sdsjax.training.config import Config, ConfigError


class Phase(NamedTuple):
    """A phase is the steps first <= i < last at one resolution and batch size.

    cameras: key -> a batch [batch_size] of random views of that resolution; mesh: the
    devices that its samples and the prior are spread over (distributed/sharding), None
    for one.
    """

    first: int
    last: int
    resolution: int
    batch_size: int
    cameras: Callable[[jax.Array], Camera]
    mesh: Mesh | None = None


def phase_sizes(config: Config, group: int = 1) -> list[tuple[int, int, int, int]]:
    """Lists (first, last, resolution, batch size) of a run's phases, in order.

    The last one always; before it the first, where `camera.first_steps` says so, and
    between the two those of `camera.milestones`. Raises ConfigError for a batch that
    does not divide into groups.
    """
    camera, sizes, first = config.camera, [], 0
    for end, size, batch in (
        (camera.first_steps, camera.first_resolution, camera.first_batch_size),
        *camera.milestones,
        (config.steps, config.resolution, config.batch_size),
    ):
        last = min(end, config.steps)
        if last <= first:
            continue
        if batch % group:
            raise ConfigError(
                f"batch_size = {batch} is no multiple of the {group} views that "
                f"the prior sees together: choose {group}, {2 * group}, ..."
            )
        sizes.append((first, last, size, batch))
        first = last
    return sizes


def build_meshes(config: Config) -> tuple[Mesh | None, ...]:
    """Lays out the devices for each phase of a run (config keys `mesh.*`).

    Raises MeshError for a mesh that divides the devices or a batch unevenly.
    """
    # the prior is not read yet: where its parameters go depends on the answer
    group = config.prior.group if config.prior.name == "multiview" else 1
    samples = [batch // group for *_, batch in phase_sizes(config, group)]
    return make_meshes(samples, data=config.mesh.data, model=config.mesh.model)


def build_phases(
    config: Config,
    orbit: OrbitRange,
    group: int = 1,
    meshes: Iterable[Mesh | None] | None = None,
) -> tuple[Phase, ...]:
    """Builds the phases of a run, in order, covering all its steps.

    group: views that the prior sees together, drawn together; meshes: of
    `build_meshes`, None for one device. Raises ConfigError as `phase_sizes`.
    """
    sizes = phase_sizes(config, group)
    return tuple(
        Phase(
            first,
            last,
            size,
            batch,
            partial(
                random_orbits,
                count=batch,
                orbit=orbit,
                width=size,
                height=size,
                group=group,
            ),
            mesh,
        )
        for (first, last, size, batch), mesh in zip(
            sizes, meshes or [None] * len(sizes), strict=True
        )
    )
