"""The settings of a cloud of Gaussians, and the checks that they can work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.render.spherical_harmonics import degree_of
from sdsjax.render.splatting.rasterize import compositor
from sdsjax.representations.backgrounds import check_background
from sdsjax.representations.gaussians import initialization
from sdsjax.representations.regularizers import check_losses

Array = jax.Array


class GaussianSettings(NamedTuple):
    """The settings of a cloud, which are the keyword arguments of `gaussians`.

    count: rows; sh_degree: of their colours; init: "ball", "shell" or points
    [init_count 3], or points and rgb [init_count 6]; init_radius in world units;
    init_scale: standard deviation (world units; None: half the cloud's spacing, of
    given points their own); init_opacity in (0, 1); init_count: rows that live from the
    beginning (None: all); init_fit: whether given points are moved and scaled into the
    ball of init_radius.

    background: "random" (a flat colour a view, drawn from the key; white without a
    key), "white", or rgb; losses: weight of each regulariser; max_alpha, antialias,
    capacity, tile_size, kernel: see `rasterize`.

    control: the rule of density control, "none", "3dgs", "stabledreamer" or "mcmc";
    control_*: its settings (None: the rule's own; see density_control/); control_end:
    updates of the whole run, for the rules that mind it.
    """

    count: int
    sh_degree: int
    init: str | Array
    init_radius: float
    init_scale: float | None
    init_opacity: float
    init_count: int | None
    init_fit: bool
    background: str | Sequence[float]
    losses: Mapping[str, float] | None
    max_alpha: float
    antialias: bool
    capacity: int | None
    tile_size: int | None
    kernel: str
    control: str
    control_every: int | None
    control_start: int | None
    control_stop: int | None
    control_threshold: float | None
    control_clone_scale: float | None
    control_prune: float | None
    control_prune_scale: float | None
    control_reset_every: int | None
    control_reset_opacity: float | None
    control_decay: float | None
    control_shared: bool | None
    control_growth: float | None
    control_noise: float | Callable[[Array], Array] | None
    control_end: int | None

    @property
    def initial_count(self) -> int:
        """The number of rows that live from the beginning."""
        if self.init_count is None:
            return self.count
        return min(self.init_count, self.count)

    @property
    def density_control(self) -> dict[str, Any]:
        """The settings of the rule of density control, by the rule's own names."""
        return {
            name.removeprefix("control_"): value
            for name, value in self._asdict().items()
            if name.startswith("control_")
        }


def check_settings(settings: GaussianSettings, regularizers: Collection[str]) -> None:
    """Raises ValueError with one line for the first setting that cannot work.

    regularizers: the names that `losses` may weigh.
    """
    compositor(settings.kernel)
    if settings.count < 1:
        raise ValueError(f"count={settings.count}: at least one Gaussian is needed")
    if settings.initial_count < 1:
        raise ValueError(
            f"init_count={settings.initial_count}: at least one Gaussian must live"
        )
    degree_of((settings.sh_degree + 1) ** 2)
    _check_init(settings.init, settings.initial_count)
    if not 0 < settings.init_opacity < 1:
        raise ValueError(
            f"init_opacity={settings.init_opacity}: give a number between 0 and 1"
        )
    check_background(settings.background)
    check_losses(settings.losses, regularizers)


def _check_init(init: str | Array, count: int) -> None:
    if isinstance(init, str):
        if init not in initialization.CLOUDS:
            raise ValueError(
                f"init={init!r}: allowed are {', '.join(initialization.CLOUDS)} or an "
                "array of points (in a config, a .ply file of them)"
            )
    elif jnp.shape(init) not in ((count, 3), (count, 6)):
        raise ValueError(
            f"init has shape {jnp.shape(init)}: give ({count}, 3), or ({count}, 6) "
            "with colours; init_count may be below count"
        )
