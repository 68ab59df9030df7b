"""The recipe of `toybox-dpt` and `toybox-normals`: noisy renders -> disparity, normals.

One training of one DPT with four outputs (disparity, then a normal mapped to [0, 1]),
split into the two networks that the published layout has: they share every weight but
the last layer's. Disparity `[b h w]` is exact in the pool's units, 0 at depth FAR and
on the background, 1 at NEAR (pool.py); normals are in camera axes (x right, y down, z
forward), turned to the camera.

A quarter of each batch is clean renders, a quarter early ones, a quarter x_t, a quarter
D(z_t) of toybox-sd (degrade.py), the last two at all noise levels, low ones more often:
at t = 1000 u^2 for u spread evenly, for little can be learnt where little is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.loading.save_vision import save_companion
from sdsjax.models.vision.bit import BitConfig
from sdsjax.models.vision.dpt import DPT, DPTConfig, unit
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.degrade import (
    early_render,
    low_strata,
    noised,
    through_latents,
)
from sdsjax.toybox.training.fit import FitState, Recipe, fit, fit_within

NETWORK = DPTConfig(
    hidden=64,
    mlp=192,
    layers=4,
    heads=4,
    image_size=64,
    patch=16,
    in_channels=3,
    activation="gelu",
    epsilon=1e-6,
    qkv_bias=True,
    taps=(0, 1, 2, 3),
    factors=(1, 1, 1, 0.5),
    necks=(96, 160, 64, 64),
    fusion=40,
    # convolutions first, in the place of patches of 8 pixels (arXiv 2103.13413)
    stem=BitConfig(embedding=64, widths=(96, 160, 224), depths=(2, 2, 2), groups=8),
)
COOLDOWN = 0.3  # of the steps or minutes
HEADS = {"depth": slice(0, 1), "normals": slice(1, 4)}  # of the last layer's outputs


class DepthRecipe(NamedTuple):
    """Sizes of the training; batch: a multiple of 4; prior: whose VAE draws D(z_t).

    steps, minutes: how long in all, whichever comes first (minutes 0: no limit); of
    both the last COOLDOWN is the cool-down.
    """

    singles: int = 240
    pairs: int = 40
    steps: int = 4000
    minutes: float = 0.0
    batch: int = 12
    rate: float = 1.2e-3
    pair_fraction: float = 0.35
    seed: int = 0
    prior: str = "toybox-sd"


def frozen_vae(recipe: DepthRecipe):
    """Loads the prior's AutoencoderKL, which is not trained.

    Returns (its apply function, {"vae": parameters, "scaling_factor": scalar}).
    """
    vae = hub.load_component(recipe.prior, "vae")
    scale = jnp.float32(vae.config.scaling_factor)
    return vae.module.apply, {"vae": vae.params, "scaling_factor": scale}


def raw_outputs(module: DPT, params, x):
    """What the last layer gives before any clipping, x `[b h w 3]` -> `[b h w 4]`.

    So what is clipped away still has a gradient.
    """
    _, seen = module.apply(
        {"params": params},
        x,
        capture_intermediates=lambda layer, _: layer.name == "head_4",
        mutable=["intermediates"],
    )
    return seen["intermediates"]["head_4"]["__call__"][0]


def shape_loss(raw, surface):
    """The loss of outputs against surfaces `[b h w 4]`: (total, parts).

    Over covered pixels but for the background's disparity, which is 0. disparity: mean
    |error|, and of its differences between neighbours, which is what tells shapes;
    normals: 1 - cosine, and |error| before clipping.
    """
    mask = (surface[..., 1:].sum(-1) > 0).astype(jnp.float32)
    area = jnp.maximum(mask.sum(), 1.0)
    error = raw[..., 0] - surface[..., 0]
    inside = jnp.sum(mask * jnp.abs(error)) / area
    outside = jnp.mean((1.0 - mask) * jax.nn.relu(raw[..., 0]))
    steps = sum(
        jnp.sum(both * jnp.abs(slope))
        for both, slope in (
            (mask[:, 1:] * mask[:, :-1], error[:, 1:] - error[:, :-1]),
            (mask[:, :, 1:] * mask[:, :, :-1], error[:, :, 1:] - error[:, :, :-1]),
        )
    ) / (2.0 * area)
    true = 2.0 * surface[..., 1:] - 1.0
    cosine = jnp.sum(unit(true) * unit(2.0 * raw[..., 1:] - 1.0), -1)
    normal = jnp.sum(mask * (1.0 - cosine)) / area
    near = jnp.sum(mask[..., None] * jnp.abs(raw[..., 1:] - surface[..., 1:])) / area
    total = 4.0 * (inside + steps) + outside + normal + 0.3 * near
    return total, {"disparity": inside, "slope": steps, "normal": normal}


def _begin(module: DPT, seed: int, size: int):
    x = jnp.zeros((1, size, size, 3))
    params: Any = module.init(jax.random.key(seed), x)["params"]
    # 0.3: inside both ranges, so that no pixel begins beyond a clip
    bias = jnp.full_like(params["head_4"]["bias"], 0.3)
    return params | {"head_4": params["head_4"] | {"bias": bias}}


def train_shapes(
    folder: Path, pool: pools.Pool, recipe: DepthRecipe, log=print
) -> FitState:
    """Trains the four-output network into `folder/shapes`, from what is there."""
    surfaces = pools.surfaces_of(pool)
    module = DPT(NETWORK._replace(outputs=4))
    schedule, share = NoiseSchedule.scaled_linear(), recipe.batch // 4
    apply, frozen = frozen_vae(recipe)

    def batch_at(step: int):
        rng = np.random.default_rng([recipe.seed, 9, step])
        chosen = pools.draw(pool, rng, recipe.batch, pair_fraction=recipe.pair_fraction)
        surface = surfaces[chosen.row].astype(np.float32) / 255.0
        return pools.pictures(pool, chosen), chosen.background, surface

    def loss(params, frozen, batch, key):
        x, background, surface = batch
        keys = jax.random.split(key, 5)
        clean, early, plain, latent = jnp.split(x, 4)
        t, u = (low_strata(k, share, schedule.num_steps) for k in keys[:2])
        seen = [
            clean,
            early_render(keys[2], early, background[share : 2 * share]),
            noised(keys[3], plain, t, schedule),
            through_latents(keys[4], latent, u, schedule, apply, frozen),
        ]
        x = jax.lax.stop_gradient(jnp.concatenate(seen))
        return shape_loss(raw_outputs(module, params, x), surface)

    plan = Recipe(
        loss,
        batch_at,
        recipe.steps,
        recipe.rate,
        COOLDOWN,
        warmup=100,
        ema_decay=0.998,
        weight_decay=0.01,
        seed=recipe.seed,
    )
    params = _begin(module, recipe.seed, NETWORK.image_size)
    where, more = folder / "shapes", {"pictures": recipe.batch, "log": log}
    if not recipe.minutes:
        return fit(where, plan, params, frozen, **more)
    return fit_within(where, plan, params, frozen, minutes=recipe.minutes, **more)


def head_of(params, name: str):
    """The parameters of `depth` or `normals` out of the four-output network's."""
    chosen = HEADS[name]
    last = {k: np.asarray(v)[..., chosen] for k, v in params["head_4"].items()}
    return params | {"head_4": last}


def write_shapes(folder: Path, params, name: str) -> None:
    """Writes `depth` or `normals` as float16 in DPT's flat folder layout."""
    outputs = HEADS[name].stop - HEADS[name].start
    config = NETWORK._replace(outputs=outputs)
    save_companion(folder, name, config, head_of(params, name))


def train_depth(
    work: Path,
    out: Path,
    recipe: DepthRecipe = DepthRecipe(),
    *,
    name: str = "depth",
    log=print,
) -> None:
    """The whole recipe: continues whatever `work` holds, then writes `out`.

    name: "depth" or "normals"; the second of the two finds the training done.
    """
    if recipe.batch % 4:
        raise ValueError(f"batch = {recipe.batch} must be a multiple of 4")
    pool = pools.build_pool(
        work / "pool",
        singles=recipe.singles,
        pairs=recipe.pairs,
        seed=recipe.seed,
        surfaces=True,
        log=log,
    )
    write_shapes(out, train_shapes(work, pool, recipe, log).ema, name)
    log(f"wrote {out}")
