"""The recipe of `toybox-mv`: toybox-sd taught the camera, on sets of four views.

Stages: the code map alone learns by regression what each caption looks like from each
camera, on white (noise-free targets and a small decoder: many times the pictures a
second); then the UNet and its text encoder go on from a toybox-sd's weights, at a
constant rate with a moving average, so that the run may be stopped and continued at
any time; then, from a copy of the checkpoint, the cool-down, whose weights are
written. The VAE is the start's and stays as it is. Pictures come from pools of view
sets, each rendered when the training first asks for it (view_sets.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading.hub import StableDiffusion
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextEncoder
from sdsjax.models.unets.multiview import MultiViewConfig, MultiViewUNet
from sdsjax.toybox.training.fit import (
    FitState,
    Recipe,
    fit,
    read_arrays,
    seconds_per_step,
)
from sdsjax.toybox.training.multiview_recipe import (
    MultiViewRecipe,
    initial_params,
    load_start,
    network_config,
)
from sdsjax.toybox.training.train_prior import snr_weight, vocab_and_merges
from sdsjax.toybox.training.view_sets import batches, view_conditions

COOLED_EMA = 0.99  # a short memory: the falling rate averages by itself


def map_error(sown, batch):
    """Computes the mean square of (code map - white).

    Over the groups that have a caption and a camera: nothing else can be known by
    regression.
    """
    square = (sown["intermediates"]["expected"][0] - batch["white"]) ** 2
    known = batch["seen"] & batch["named"]
    each = square.mean(axis=(1, 2, 3, 4)) * known
    return each.sum() / jnp.maximum(known.sum(), 1)


def map_loss(config: MultiViewConfig, start: StableDiffusion, dtype):
    """Makes the loss of the code map's regression alone.

    On the text encoder as it is; the UNet is not computed.
    """
    unet = MultiViewUNet(config, dtype)
    text = CLIPTextEncoder(start.text_encoder.config, dtype)

    def loss(params, frozen, batch, key):
        del frozen, key
        z = batch["z"]
        camera, rays = view_conditions(batch["orbit"], batch["seen"], z.shape[2])
        states = text.apply({"params": params["text_encoder"]}, batch["ids"])
        _, sown = unet.apply(
            {"params": params["unet"]},
            z,
            jnp.zeros(len(z), jnp.int32),
            jax.lax.stop_gradient(states),
            camera,
            rays,
            mutable="intermediates",
        )
        error = map_error(sown, batch)
        return error, {"map": error}

    return loss


def noise_loss(
    config: MultiViewConfig, start: StableDiffusion, dtype, map_weight: float = 0.0
):
    """Makes the loss of a batch: of the noise prediction, and of the code map.

    The first is weighted by the clipped signal-to-noise ratio, one t a group,
    stratified over the batch; the second is the map's regression.
    """
    unet = MultiViewUNet(config, dtype)
    text = CLIPTextEncoder(start.text_encoder.config, dtype)
    schedule: NoiseSchedule = start.schedule

    def loss(params, frozen, batch, key):
        del frozen
        z = batch["z"]
        key_t, key_noise = jax.random.split(key)
        count = z.shape[0]
        u = (jnp.arange(count) + jax.random.uniform(key_t, (count,))) / count
        t = jnp.floor(u * schedule.num_steps).astype(jnp.int32)
        eps = jax.random.normal(key_noise, z.shape)
        spread = (slice(None), *(None,) * 4)
        z_t = schedule.alphas[t][spread] * z + schedule.sigmas[t][spread] * eps
        camera, rays = view_conditions(batch["orbit"], batch["seen"], z.shape[2])
        states = text.apply({"params": params["text_encoder"]}, batch["ids"])
        eps_hat, sown = unet.apply(
            {"params": params["unet"]}, z_t, t, states, camera, rays,
            mutable="intermediates",
        )  # fmt: skip
        square = jnp.mean((eps_hat - eps) ** 2, axis=(1, 2, 3, 4))
        weighted = jnp.mean(snr_weight(schedule, t) * square)
        low, high = square[: count // 4].mean(), square[3 * count // 4 :].mean()
        aux = {"mse": square.mean(), "mse_low_t": low, "mse_high_t": high}
        if config.code_map:
            aux["map"] = map_error(sown, batch)
            weighted = weighted + map_weight * aux["map"]
        return weighted, aux

    return loss


def train_multiview_unet(
    work: Path, start: StableDiffusion, recipe: MultiViewRecipe, log
) -> FitState:
    """Trains the level stage in `work/unet`, then the cool-down from a copy of it.

    A `cooldown` of 0 leaves the one out, of 1 the other.
    """
    level, params = work / "unet", train_code_map(work, start, recipe, log)
    level_steps = round(recipe.steps * (1.0 - recipe.cooldown))
    config, dtype = network_config(start, recipe), jnp.dtype(recipe.dtype)
    plan = Recipe(
        noise_loss(config, start, dtype, recipe.map_weight),
        batches(work / "pools", start, recipe, log),
        steps=level_steps,
        peak=recipe.rate,
        cooldown=0.0,
        warmup=100,
        ema_decay=0.9995,
        weight_decay=0.01,
        seed=recipe.seed,
    )
    minutes = recipe.minutes or None

    def stage(folder, plan, share):
        return fit(
            folder,
            plan,
            params,
            minutes=minutes and share * minutes,
            pictures=recipe.batch,
            log=log,
        )

    if recipe.cooldown < 1.0:
        state = stage(level, plan, 1.0 - recipe.cooldown)
        if recipe.cooldown == 0.0:
            return state
    checkpoint = level / "checkpoint.safetensors"
    reached = int(read_arrays(checkpoint)[".step"])
    steps = recipe.steps - level_steps
    if minutes and reached < level_steps + steps:
        seconds = 60.0 * recipe.cooldown * minutes
        steps = max(1, int(seconds / seconds_per_step(level)))
    folder = work / f"cooldown-{reached}"
    folder.mkdir(exist_ok=True)
    if not (folder / checkpoint.name).exists():
        shutil.copy(checkpoint, folder)
    log(f"cool-down: {steps} steps from {reached}")
    cooled = plan._replace(
        steps=reached + steps,
        cooldown=steps / (reached + steps),
        ema_decay=COOLED_EMA,
    )
    # the steps are planned by the level stage's speed: leave room for a slower hour
    return stage(folder, cooled, 1.5 * recipe.cooldown)


def train_code_map(
    work: Path, start: StableDiffusion, recipe: MultiViewRecipe, log
) -> dict[str, Any]:
    """Returns the parameters with which the UNet's training begins.

    The start's, and a code map trained in `work/map` if the recipe has one.
    """
    params = initial_params(start, recipe)
    if not recipe.map_width:
        return params
    views = recipe._replace(
        batch=recipe.map_batch, group_fraction=0.0, dropout=0.0, camera_dropout=0.0,
        bank_steps=250, pool_steps=1000,
    )  # fmt: skip
    config, dtype = network_config(start, recipe), jnp.dtype(recipe.dtype)
    plan = Recipe(
        map_loss(config, start, dtype),
        batches(work / "pools", start, views, log, stage=6),
        steps=recipe.map_steps,
        peak=recipe.map_rate,
        cooldown=0.2,
        warmup=20,
        ema_decay=0.998,
        # what the regression does not reach must stay as it is
        weight_decay=0.0,
        seed=recipe.seed,
    )
    minutes = 0.25 * recipe.minutes or None
    return fit(
        work / "map", plan, params, minutes=minutes, pictures=views.batch, log=log
    ).ema


def write_multiview(
    folder: Path, start: StableDiffusion, config: MultiViewConfig, params
) -> None:
    """Writes the averaged weights as float16: a folder that `hub.load_multiview` reads.

    It is complete by itself, its VAE the start's.
    """
    save_stable_diffusion(
        folder,
        unet=(config, params["unet"]),
        vae=(start.vae.config, start.vae.params),
        text_encoder=(start.text_encoder.config, params["text_encoder"]),
        tokenizer=vocab_and_merges(),
    )


def train_multiview(
    work: Path, out: Path, recipe: MultiViewRecipe = MultiViewRecipe(), log=print
) -> None:
    """The whole recipe: continues whatever `work` holds, then writes `out`."""
    start = load_start(recipe.start)
    state = train_multiview_unet(work, start, recipe, log)
    write_multiview(out, start, network_config(start, recipe), state.ema)
    log(f"wrote {out}")
