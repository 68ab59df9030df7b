"""Batches of view sets: which are drawn, how encoded, and from where they are seen.

Notation: b groups of g views; a batch is z `[b g h w c]` (the latents' means, scaled),
white `[b g h w c+1]` (the same on a white background, and the covered share), ids
`[b n]` one caption a group without view words, named `[b]` whether it says anything,
orbit `[b g 3]` (azimuth, elevation in degrees, distance), seen `[b]` whether the
network is told the cameras.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sdsjax.cameras import camera_numbers, orbit_camera, plucker_rays
from sdsjax.models.loading.hub import StableDiffusion
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe
from sdsjax.toybox.world.views import FOV_DEG

VIEWS = 4  # views of a set
CHUNK = 64  # pictures that the VAE encodes in one call


class Bank(NamedTuple):
    """Encoded view sets, m of v views each.

    latents [m v h w c] and white [m v h w c+1] float16; drawn: of each picture of the
    m * v, as `pools.draw` gives it; pool: the one drawn from.
    """

    latents: np.ndarray
    white: np.ndarray
    drawn: pools.Draw
    pool: pools.Pool


def draw_sets(
    pool: pools.Pool, rng: np.random.Generator, count: int, *, pair_fraction: float
) -> pools.Draw:
    """Draws `count` whole sets, their pictures in a run.

    Colours and background are the same within each set.
    """
    coarse = pool._replace(geometry=pool.geometry[::VIEWS])
    drawn = pools.draw(coarse, rng, count, pair_fraction=pair_fraction)
    repeated = pools.Draw(*(np.repeat(a, VIEWS, axis=0) for a in drawn))
    return repeated._replace(
        row=VIEWS * repeated.row + np.tile(np.arange(VIEWS), count)
    )


def view_conditions(orbit, seen, size: int):
    """Makes what the network is told of its cameras.

    orbit [b g 3], seen [b] -> (camera [b g 16], rays [b g size size 6]), zeros for the
    groups that are not told.
    """

    def of_one(orbit):
        camera = orbit_camera(*orbit, fov=FOV_DEG, width=size, height=size)
        return camera_numbers(camera), plucker_rays(camera)

    camera, rays = jax.vmap(jax.vmap(of_one))(orbit)
    told = seen.astype(camera.dtype)
    return camera * told[:, None, None], rays * told[:, None, None, None, None]


def _coloured_latents(encode, vae_params, pool: pools.Pool, part: pools.Draw):
    """Latents of some pictures as drawn and, beside them, on white with their cover.

    [m h w c + (c + 1)]: the last channel is the share of each latent that is covered.
    """
    on_white = part._replace(background=np.ones_like(part.background))
    pair = [encode(vae_params, pools.pictures(pool, d)) for d in (part, on_white)]
    side = pair[0].shape[1]
    covered = pool.layers[part.row, ..., 5] / 255.0
    each = (covered.shape[1] // side, covered.shape[2] // side)
    covered = covered.reshape(-1, side, each[0], side, each[1]).mean((2, 4))
    return np.concatenate([*pair, covered[..., None]], axis=-1)


def _encoded_bank(
    encode, vae_params, pool: pools.Pool, rng: np.random.Generator, recipe
) -> Bank:
    """Draws, colours and encodes `recipe.bank` sets of a pool."""
    drawn = draw_sets(pool, rng, recipe.bank, pair_fraction=recipe.pair_fraction)
    parts = [
        _coloured_latents(
            encode, vae_params, pool, pools.Draw(*(a[i : i + CHUNK] for a in drawn))
        )
        for i in range(0, len(drawn.row), CHUNK)
    ]
    found = np.concatenate(parts).astype(np.float16)
    found = found.reshape(-1, VIEWS, *found.shape[1:])
    channels = found.shape[-1] // 2
    return Bank(found[..., :channels], found[..., channels:], drawn, pool)


def _batch_of(found: Bank, rng: np.random.Generator, tokenizer, recipe) -> dict:
    """Draws one batch from a bank: groups, or single views."""
    grouped = rng.random() < recipe.group_fraction
    count = recipe.batch // (VIEWS if grouped else 1)
    index = rng.integers(0, recipe.bank, count)
    first = rng.integers(0, VIEWS, count)
    views = np.arange(VIEWS) if grouped else first[:, None]
    views = np.broadcast_to(views, (count, VIEWS if grouped else 1))
    picture = VIEWS * index[:, None] + views
    one = pools.Draw(*(a[picture[:, 0]] for a in found.drawn))
    texts = pools.captions(
        found.pool, one, rng, view_fraction=0.0, dropout=recipe.dropout
    )
    rows = found.drawn.row[picture]
    return {
        "z": found.latents[index[:, None], views].astype(np.float32),
        "white": found.white[index[:, None], views].astype(np.float32),
        "ids": tokenizer(texts),
        "orbit": pools.orbits_of(found.pool)[rows],
        "seen": rng.random(count) >= recipe.camera_dropout,
        "named": np.array([text != "" for text in texts]),
    }


def batches(
    folder: Path, start: StableDiffusion, recipe: MultiViewRecipe, log=print, *, stage=4
):
    """Makes step -> batch, a pure function; `folder` keeps the pools that it renders.

    The pictures are encoded a bank at a time: each latent is used about bank_steps *
    batch / (4 * bank) times, with other noise each time. stage: a number that sets the
    draws of one stage apart from another's.
    """
    vae = start.vae
    encode = jax.jit(
        lambda params, x: (
            vae.config.scaling_factor
            * vae.module.apply({"params": params}, x, method="encode")[0]
        )
    )

    def pool_of(index: int) -> pools.Pool:
        return pools.build_pool(
            folder / str(index),
            singles=recipe.singles,
            pairs=recipe.pairs,
            seed=1000 * (recipe.seed + 1) + index,
            views=VIEWS,
            log=log,
        )

    @lru_cache(maxsize=1)
    def bank(index: int) -> Bank:
        turn = index * recipe.bank_steps // recipe.pool_steps
        rng = np.random.default_rng([recipe.seed, stage, 0, index])
        return _encoded_bank(
            encode, vae.params, pool_of(turn % recipe.pools), rng, recipe
        )

    def batch_at(step: int):
        rng = np.random.default_rng([recipe.seed, stage, 1, step])
        return _batch_of(bank(step // recipe.bank_steps), rng, start.tokenizer, recipe)

    return batch_at
