"""From a config to the phases of its run: resolution, batch size and random views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

from sdsjax.cameras import Camera, OrbitRange, random_orbits
from sdsjax.training.config import Config, ConfigError


class Phase(NamedTuple):
    """A phase is the steps first <= i < last at one resolution and batch size.

    cameras: key -> a batch [batch_size] of random views of that resolution.
    """

    first: int
    last: int
    resolution: int
    batch_size: int
    cameras: Callable[[jax.Array], Camera]


def build_phases(
    config: Config, orbit: OrbitRange, group: int = 1
) -> tuple[Phase, ...]:
    """Builds the phases of a run, in order, covering all its steps.

    group: views that the prior sees together, drawn together. Raises ConfigError for a
    batch that does not divide into groups.

    The last one always; before it the first, where `camera.first_steps` says so, and
    between the two those of `camera.milestones`.
    """
    camera, phases, first = config.camera, [], 0
    for end, size, batch in (
        (camera.first_steps, camera.first_resolution, camera.first_batch_size),
        *camera.milestones,
        (config.steps, config.resolution, config.batch_size),
    ):
        last = min(end, config.steps)
        if last > first:
            if batch % group:
                raise ConfigError(
                    f"batch_size = {batch} is no multiple of the {group} views that "
                    f"the prior sees together: choose {group}, {2 * group}, ..."
                )
            draw = partial(
                random_orbits,
                count=batch,
                orbit=orbit,
                width=size,
                height=size,
                group=group,
            )
            phases.append(Phase(first, last, size, batch, draw))
            first = last
    return tuple(phases)
