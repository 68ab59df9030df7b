"""Density control: rules by which Gaussians are born, split, moved and die.

A rule is a factory in CONTROLS; the edit it makes is one branch of a lax.cond on the
step, so that nothing is traced twice and no shape changes. Every rule reports what it
did, summed since the beginning, and how many copies it wanted and found no row for
(`shortfall`).

    none           the rows of the beginning stay
    3dgs           arXiv 2308.04079: clone, split, prune, lower the opacities
    stabledreamer  arXiv 2312.02189: the same with an opacity that decays at each edit
    mcmc           arXiv 2404.09591: the dead move onto the living, the faint wander
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from sdsjax.representations.gaussians.density_control.clone_split_prune import (
    adaptive_density_control,
    stabledreamer,
)
from sdsjax.representations.gaussians.density_control.edits import DensityControl
from sdsjax.representations.gaussians.density_control.mcmc import mcmc

__all__ = ["CONTROLS", "DensityControl", "make_density_control"]

CONTROLS: dict[str, Callable[..., DensityControl] | None] = {
    "none": None,
    "3dgs": adaptive_density_control,
    "stabledreamer": stabledreamer,
    "mcmc": mcmc,
}


def make_density_control(name: str, settings: dict[str, Any]) -> DensityControl | None:
    """Makes the rule of a name; settings that are None are left to the rule.

    Raises ValueError for an unknown name, a setting that the rule does not take or one
    that is out of range.
    """
    if name not in CONTROLS:
        raise ValueError(f"control={name!r}: allowed are {', '.join(CONTROLS)}")
    given = {key: value for key, value in settings.items() if value is not None}
    factory = CONTROLS[name]
    parameters = inspect.signature(factory).parameters if factory else {}
    for key, value in given.items():
        if key not in parameters:
            allowed = ", ".join(f"control_{k}" for k in parameters) or "no settings"
            raise ValueError(
                f"control {name!r} does not take control_{key}: it takes {allowed}"
            )
        low = {"every": 1, "reset_opacity": 1e-5, "decay": 1e-3}.get(key, 0)
        high = 1 if key in ("prune", "reset_opacity", "decay") else math.inf
        if not callable(value) and not low <= value <= high:
            limits = f"in {low}..1" if high == 1 else f"at least {low}"
            raise ValueError(f"control_{key}={value} must be {limits}")
    return factory(**given) if factory else None
