"""From a config to its optimizer: one learning rate for each parameter group."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from sdsjax.training.config import Config, ConfigError
from sdsjax.training.optimizers import exponential_decay, grouped_adam

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": grouped_adam
}


def updates(config: Config) -> int:
    """Counts the updates that a run makes to each of its particles."""
    return -(-config.steps // config.particles)


def build_optimizer(
    config: Config, params
) -> tuple[optax.GradientTransformation, tuple[str, ...]]:
    """Builds Adam with a geometrically falling rate for each group, and the groups.

    params: the representation's, or their shapes. Raises ConfigError where a group has
    no rate or a rate no group.
    """
    optimizer, fields = config.optimizer, params._fields
    rates = dict(optimizer.lr)
    trained = [
        field
        for field in fields
        if any(
            jnp.issubdtype(leaf.dtype, jnp.floating)
            for leaf in jax.tree.leaves(getattr(params, field))
        )
    ]
    if set(trained) - set(rates) or set(rates) - set(fields):
        raise ConfigError(
            f"optimizer.lr must hold one learning rate for each parameter group of "
            f"{config.representation.name}: {', '.join(trained)} (0 freezes one), not "
            f"{', '.join(rates) or 'nothing'}"
        )
    schedules = {
        name: exponential_decay(rate, optimizer.lr_final_factor, updates(config))
        for name, rate in rates.items()
        if rate > 0
    }
    adam = OPTIMIZERS[optimizer.name](
        schedules,
        fields=fields,
        b1=optimizer.b1,
        b2=optimizer.b2,
        eps=optimizer.eps,
        clip_norm=optimizer.clip_norm,
    )
    return adam, fields
