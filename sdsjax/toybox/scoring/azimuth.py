"""The azimuth network: from which side a picture shows its object, in degrees.

Trained on true renders alone, of kinds whose sides differ: a prior never sees it and it
never sees a prior, so that its answer for a sample tells whether the sample obeys the
camera it was drawn for. Input x [b 64 64 3] in [-1, 1]; output [b 2], the cosine and
sine of the azimuth up to scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.parameters import Dense, Module
from sdsjax.toybox.scoring.judge import (
    directed,
    load_network,
    picture_features,
    roughen,
    save_network,
)
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.fit import Recipe, fit
from sdsjax.toybox.world.objects import KINDS

FOLDER = Path(__file__).parents[2] / "weights" / "toybox-azimuth"
WIDTHS = (16, 32, 56, 72)
OVERHEAD = 50.0  # degrees of elevation from which sides are hard to tell


class AzimuthNet(Module):
    """The judge's trunk, smaller, with one head."""

    @nn.compact
    def __call__(self, x):
        return Dense(2, name="direction")(picture_features(x, WIDTHS, 48, 128))


def azimuth_error(direction, azimuth):
    """The angle in degrees, [b] in 0..180, between answers [b 2] and azimuths [b]."""
    said = jnp.rad2deg(jnp.arctan2(direction[..., 1], direction[..., 0]))
    return jnp.abs((said - azimuth + 180.0) % 360.0 - 180.0)


def sided_rows(pool: pools.Pool) -> np.ndarray:
    """The rows of a pool of view sets that show one object with sides, not from above.

    ValueError for a pool without orbits.
    """
    alone = pool.geometry < len(KINDS)
    sided = directed(np.where(alone, pool.geometry, 0)) & alone
    return np.flatnonzero(sided & (pools.orbits_of(pool)[:, 1] < OVERHEAD))


def train_azimuth(folder: Path, pool: pools.Pool, *, steps: int, seed=11, log=print):
    """Trains on true renders of a pool of view sets; returns the averaged params."""
    module, batch, rows = AzimuthNet(), 64, sided_rows(pool)
    azimuths = pools.orbits_of(pool)[:, 0]

    def batch_at(step: int):
        rng = np.random.default_rng([seed, 4, step])
        drawn = pools.draw(pool, rng, batch, pair_fraction=0.0)
        drawn = drawn._replace(row=rng.choice(rows, batch))
        return pools.pictures(pool, drawn), azimuths[drawn.row]

    def loss(params, frozen, given, key):
        del frozen
        x, azimuth = given
        out: Any = module.apply({"params": params}, roughen(x, key))
        angle = jnp.deg2rad(azimuth)
        true = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        error = azimuth_error(out, azimuth)
        return jnp.mean((out - true) ** 2), {"degrees": jnp.median(error)}

    init = module.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)))["params"]
    recipe = Recipe(loss, batch_at, steps, 2e-3, 0.5, 200, 0.998, 0.02, seed)
    return fit(folder / "azimuth", recipe, init, pictures=batch, log=log).ema


def error_on_renders(said, pool: pools.Pool, *, count: int = 1000, seed: int = 1):
    """Median error in degrees of `said` (x -> [b 2]) on true renders of a pool."""
    rng = np.random.default_rng([seed, 6])
    drawn = pools.draw(pool, rng, count, pair_fraction=0.0)
    drawn = drawn._replace(row=rng.choice(sided_rows(pool), count))
    azimuth, errors = pools.orbits_of(pool)[drawn.row, 0], []
    for i in np.array_split(np.arange(count), max(1, count // 100)):
        x = pools.pictures(pool, jax.tree.map(lambda a, i=i: a[i], drawn))
        errors.append(azimuth_error(said(x), azimuth[i]))
    return float(np.median(np.concatenate(errors)))


def save_azimuth(params, folder: Path = FOLDER, card: dict | None = None) -> None:
    """Writes the parameters, and what was measured."""
    save_network(params, folder, {"widths": WIDTHS} | (card or {}))


def load_azimuth(folder: Path = FOLDER):
    """The shipped network: x [b 64 64 3] -> [b 2], jitted.

    Raises ValueError if the file is missing, damaged or does not fit the network.
    """
    module, params = AzimuthNet(), load_network(AzimuthNet(), folder)
    apply: Any = jax.jit(lambda params, x: module.apply({"params": params}, x))
    return lambda x: np.asarray(apply(params, x))
